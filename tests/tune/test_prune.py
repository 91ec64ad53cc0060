"""Giving up: against cases worked by hand, scipy's test, a count of all signs, and races that are drawn at random."""

import statistics
from itertools import product

import numpy as np
import pytest
from scipy import stats

from pipeline.config.tuning import Prune
from pipeline.tune.prune import MIN_KNOWN, Trial, behind_across, behind_within, best_of, estimate, fold_spread

RULE = Prune(margin=2.0, min_epochs=1, p=0.26)
N_EPOCHS = 4
PRIOR = {0: 0.0, 1: -0.3, 2: 0.2, 3: -0.1, 4: 0.1}  # how easy each fold is


def trial(number: int, curves: dict[int, list[float]], state: str = "finished", value: float | None = None, done=None):
    done = set(curves) if done is None else set(done)
    if state == "finished" and value is None:
        value = float(np.mean([curve[-1] for curve in curves.values()]))
    return Trial(number, {"x": number}, {}, str(number), N_EPOCHS, tuple(curves), state, value=value, curves=curves,
                 done=done)  # fmt: skip


def curve(lead: float, n: int = N_EPOCHS, fold: int = 0, sign: int = 1, gain: float = 0.0) -> list[float]:
    """Of a trial that is ahead of the best one (lead 0) by `lead` in the end, and less by `gain` until its last epoch."""
    until = [lead - gain] * (N_EPOCHS - 1) + [lead]
    return [sign * (0.9 + PRIOR[fold] - 0.2 / (e + 1) + until[e]) for e in range(n)]


def best_trial(sign: int = 1, folds=(0, 1, 2, 3, 4)) -> Trial:
    return trial(0, {fold: curve(0.0, fold=fold, sign=sign) for fold in folds})


# --- within a fold ---------------------------------------------------------------------------------------------------

# Two trials of three folds, whose final leads lie .03 below their mean, at it and .03 above. From fold to fold they have
# a standard deviation of sqrt((2 x .0009 + 2 x .0009) / (2 + 2)) = .03. Until the last epoch, folds make up .04 or .06:
# .05 on average, with a variance of 6 x .0001 / 5 = .00012.
LEADS = {1: [-0.13, -0.10, -0.07], 2: [-0.23, -0.20, -0.17]}
GAINS = {1: [0.04, 0.06, 0.04], 2: [0.06, 0.04, 0.06]}


def known(sign: int = 1, folds=(0, 1, 2)) -> list[Trial]:
    """The best one and those two."""
    others = [trial(i, {fold: curve(lead, fold=fold, sign=sign, gain=gain)
                        for fold, lead, gain in zip(folds, LEADS[i], GAINS[i], strict=True)}) for i in LEADS]  # fmt: skip
    return [best_trial(sign), *others]


def running(lead: float, n: int = 2, fold: int = 0, sign: int = 1) -> Trial:
    """Now so far ahead, on its first fold."""
    return trial(99, {fold: curve(lead, n, fold, sign)}, "running", done=())


def why(own: Trial, others: list[Trial], rule: Prune = RULE, sign: int = 1) -> str:
    return behind_within(own, others, others[0], rule, sign)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("margin", [0.5, 2.0, 3.0])
def test_given_up_is_what_would_have_to_be_luckier_than_the_margin(sign, margin):
    """Expected are .05 more, plus or minus sqrt(.00012 + .03^2)."""
    sd = (0.00012 + 0.0009) ** 0.5
    rule, edge = Prune(margin=margin, min_epochs=1), -0.05 - margin * sd
    for n in (1, 2, 3):
        assert why(running(edge + 1e-6, n, sign=sign), known(sign), rule, sign) == ""
        told = why(running(edge - 1e-6, n, sign=sign), known(sign), rule, sign)
        assert told.startswith(f"fold 0, epoch {n}: would end {margin * sd:.4f} behind trial 0, {margin:.1f} standard")
    # at the last epoch nothing more is made up, and what is left is the spread of the folds
    assert why(running(-0.03 * margin + 1e-6, 4, sign=sign), known(sign), rule, sign) == ""
    assert why(running(-0.03 * margin - 1e-6, 4, sign=sign), known(sign), rule, sign)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("before", [0.1, 0.0, -0.05])
def test_the_folds_before_count_with_what_they_came_to(sign, before):
    """The mean of two folds, of which the first has no more to make up: sd = sqrt(.0009 + .0009 + .00012) / 2."""
    sd = (0.0009 + 0.0009 + 0.00012) ** 0.5 / 2
    edge = 2 * (-2 * sd) - before - 0.05
    for above, goes_on in ((1e-6, True), (-1e-6, False)):
        own = trial(99, {2: curve(before, fold=2, sign=sign), 0: curve(edge + above, 2, 0, sign)}, "running", done=[2])
        told = why(own, known(sign), RULE, sign)
        assert told == "" if goes_on else told.startswith("fold 0, epoch 2: would end")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_easy_fold_helps_nobody_and_a_hard_one_harms_nobody(sign):
    """Everything is compared with the best trial on the same fold; fold 1 costs .3 and fold 2 gives .2."""
    edge = -0.05 - 2 * (0.00012 + 0.0009) ** 0.5
    for here in range(5):
        for folds in ((0, 1, 2), (2, 3, 4), (1, 4, 0)):
            assert why(running(edge + 1e-6, 2, here, sign), known(sign, folds), RULE, sign) == ""
            assert why(running(edge - 1e-6, 2, here, sign), known(sign, folds), RULE, sign)


def test_late_risers_have_the_time_that_late_risers_were_seen_to_need():
    """Behind by .4 after two epochs: hopeless where others made up .05, and not where they made up .3 to .5."""
    assert why(running(-0.4), known())
    late = [
        best_trial(),
        *(
            trial(i, {fold: curve(lead, fold=fold, gain=0.3 + 0.1 * fold) for fold, lead in enumerate(LEADS[i])})
            for i in LEADS
        ),
    ]
    assert why(running(-0.4), late) == ""
    assert why(running(-0.6), late)


def test_too_few_others_and_too_early_an_epoch_say_nothing():
    hopeless = -5.0
    best, one, two = known()
    assert MIN_KNOWN == 4
    assert why(running(hopeless), [best, one]) == ""  # how far do folds lie apart? (two degrees of freedom of four)
    assert why(running(hopeless), [best, one, two])
    two.done = {0}
    assert why(running(hopeless), [best, one, two]) == ""
    best, one, two = known()
    two.n_epochs = 8  # another schedule makes up ground at other times: of three folds, none is known to be enough
    assert why(running(hopeless), [best, one, two]) == "" != why(running(hopeless, 4), [best, one, two])
    for least in (1, 2, 3):
        for n in (1, 2, 3):
            told = why(running(hopeless, n), known(), Prune(min_epochs=least))
            assert bool(told) == (n >= least), (least, n)


def test_the_trial_itself_and_the_best_one_teach_nothing_about_it():
    best, one, two = known()
    own = trial(99, {0: curve(-0.1), 1: curve(0.1, fold=1), 2: curve(-0.5, 2, 2)}, "running", done=[0, 1])
    assert why(own, [best, one, own]) == ""  # its own two folds would make up the four
    assert fold_spread([best, one, two], best, 1) == pytest.approx(0.03)
    own = running(-0.05 - 2 * (0.00012 + 0.0009) ** 0.5 - 1e-6)
    assert why(own, [best, one, two, own])


def test_a_fold_that_the_best_one_never_trained_says_nothing():
    others = [best_trial(folds=(2, 3, 4)), *known(folds=(2, 3, 4))[1:]]
    assert why(running(-5.0, 2, 0), others) == "" != why(running(-5.0, 2, 2), others)


def test_the_trials_that_were_given_up_teach_by_the_folds_that_they_finished():
    best, one, two = known()
    two.state, two.value = "pruned", None
    two.curves[3], edge = curve(-9.0, 1, 3), -0.05 - 2 * (0.00012 + 0.0009) ** 0.5
    assert why(running(edge + 1e-6), [best, one, two]) == "" != why(running(edge - 1e-6), [best, one, two])


def test_where_all_folds_are_alike_what_is_behind_is_given_up():
    """Nothing varies, as where every trial answers one class: no division by the spread."""
    best = best_trial()
    level = [trial(i, {fold: curve(0.0, fold=fold) for fold in (0, 1, 2)}) for i in (1, 2, 3)]
    assert why(trial(99, {0: list(best.curves[0][:2])}, "running", done=()), [best, *level]) == ""
    assert "behind trial 0" in why(running(-0.1), [best, *level])


def judged(own: Trial, others: list[Trial], best: Trial, sign: int) -> tuple[float, float] | None:
    """(expected lead, its standard deviation) once more, by way of plain lists of leads."""

    def lead(of: Trial, fold: int, epoch: int) -> float:
        return sign * (of.curves[fold][epoch] - best.curves[fold][epoch])

    parts, means = [], []
    for other in others:
        if other is not best and len(other.done) >= 2:
            finals = [lead(other, fold, len(other.curves[fold]) - 1) for fold in other.done]
            means.append(finals)
    freedom = sum(len(finals) - 1 for finals in means)
    if freedom < 4:
        return None
    spread = sum(statistics.variance(finals) * (len(finals) - 1) for finals in means) / freedom
    for fold, of_fold in own.curves.items():
        now, n = lead(own, fold, len(of_fold) - 1), len(of_fold)
        gains = [lead(o, f, N_EPOCHS - 1) - lead(o, f, n - 1) for o in others if o is not best for f in o.done]
        if n == N_EPOCHS:
            parts.append((now, spread))
        elif len(gains) < 4:
            return None
        else:
            parts.append((now + statistics.fmean(gains), spread + statistics.variance(gains)))
    return statistics.fmean(p[0] for p in parts), sum(p[1] for p in parts) ** 0.5 / len(parts)


@pytest.mark.parametrize("sign", [1, -1])
def test_verdicts_are_those_of_the_same_sums_done_otherwise(sign):
    rng = np.random.default_rng(5)
    n_up = n_on = 0
    for _ in range(200):

        def drawn(n_done: int, n_more: int, level: float) -> Trial:
            folds = [int(fold) for fold in rng.permutation(5)[: n_done + bool(n_more)]]
            lengths = [N_EPOCHS] * n_done + [n_more] * bool(n_more)
            curves = {f: [sign * (PRIOR[f] + level + 0.1 * e + rng.normal(0, 0.05)) for e in range(n)]
                      for f, n in zip(folds, lengths, strict=True)}  # fmt: skip
            return trial(int(rng.integers(10**6)), curves, "running", done=folds[:n_done])

        best = trial(0, {f: [sign * (PRIOR[f] + 0.1 * e) for e in range(N_EPOCHS)] for f in range(5)})
        others = [
            best,
            *(drawn(int(rng.integers(0, 6)), 0, float(rng.normal(-0.1, 0.1))) for _ in range(rng.integers(1, 6))),
        ]
        n_done = int(rng.integers(0, 4))
        own = drawn(n_done, int(rng.integers(1, 4)), float(rng.normal(-0.05, 0.1)))
        expected = judged(own, others, best, sign)
        told = behind_within(own, [*others, own], best, RULE, sign)
        if expected is None or abs(expected[0] + 2 * expected[1]) < 1e-9:
            assert expected is not None or told == ""
            continue
        assert bool(told) == (expected[0] + 2 * expected[1] < 0)
        n_up, n_on = n_up + bool(told), n_on + (not told)
    assert n_up > 20 and n_on > 20


@pytest.mark.parametrize("rule", [RULE, Prune()], ids=["2 sd", "default"])
def test_who_is_as_good_as_the_best_is_seldom_given_up_and_who_is_far_behind_nearly_always(rule):
    """Looked at after each of 3 x 4 epochs, of folds that lie .03 apart, on curves that wander by .05 until the end."""
    rng = np.random.default_rng(6)

    def drawn(number: int, level: float) -> Trial:
        curves = {}
        for fold in (0, 1, 2):
            final = PRIOR[fold] + level + rng.normal(0, 0.03)
            curves[fold] = [final - 0.2 / (e + 1) + rng.normal(0, 0.05) for e in range(N_EPOCHS - 1)] + [final]
        return trial(number, curves)

    shares = {}
    for level in (0.0, -0.4):
        given_up = []
        for _ in range(60):
            others = [drawn(i, lead) for i, lead in enumerate([0.0, *rng.uniform(-0.3, -0.05, 5)])]
            whole, own = drawn(99, level), trial(99, {}, "running")
            told = ""
            for fold, n in product((0, 1, 2), range(1, N_EPOCHS + 1)):
                own.curves[fold] = whole.curves[fold][:n]
                own.done = set(range(fold))
                told = told or why(own, others, rule)
            given_up.append(bool(told))
        shares[level] = np.mean(given_up)
    assert shares[0.0] <= (0.05 if rule.margin >= 4 else 0.25) and shares[-0.4] >= 0.95


# --- across folds ----------------------------------------------------------------------------------------------------


def pair(differences, sign: int = 1) -> tuple[Trial, Trial]:
    """(a trial, the best) with so many folds done; positive: the trial is better."""
    best = trial(0, {fold: [0.1, sign * (0.8 + 0.1 * fold)] for fold in range(len(differences))})
    own = {fold: [0.1, best.curves[fold][-1] + sign * d] for fold, d in enumerate(differences)}
    return trial(9, own, "running"), best


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("n", "p"), [(2, 0.25), (3, 0.125), (4, 0.0625), (5, 0.03125)])
def test_behind_in_every_fold_has_the_p_of_a_row_of_coins(n, p, sign):
    own, best = pair(-0.01 * np.arange(1, n + 1), sign)
    why = behind_across(own, best, Prune(p=p), sign)
    assert why.startswith(f"after {n} folds: behind trial 0 by {0.005 * (n + 1):.4f}") and f"{p:.2f}" in why
    assert behind_across(own, best, Prune(p=p - 1e-9), sign) == ""


def test_the_default_acts_after_two_folds_and_optunas_not_before_the_fourth():
    for n in range(1, 6):
        own, best = pair([-0.05 - 0.01 * i for i in range(n)])
        assert bool(behind_across(own, best, RULE, 1)) == (n >= 2), n
        assert bool(behind_across(own, best, Prune(p=0.1), 1)) == (n >= 4), n


def p_by_counting(differences: np.ndarray) -> float:
    """P(the ranks of what is ahead sum to as little) over all signs, each as likely."""
    left = differences[differences != 0]
    ranks = stats.rankdata(abs(left))
    own = ranks[left > 0].sum()
    return float(np.mean([ranks[np.array(s, bool)].sum() <= own for s in product([0, 1], repeat=len(left))]))


@pytest.mark.parametrize("sign", [1, -1])
def test_p_is_scipys_and_that_of_all_signs(sign):
    """On 2 to 7 folds, level ones among them (differences in steps of 1/64, so that they are exact)."""
    rng = np.random.default_rng(0)
    counted, tied = 0, 0
    for _ in range(150):
        differences = rng.integers(-9, 5, rng.integers(2, 8)) / 64
        own, best = pair(np.zeros(len(differences)), sign)
        for fold, d in enumerate(differences):
            best.curves[fold], own.curves[fold] = [0.5], [0.5 + sign * float(d)]
        if differences.mean() >= 0:
            assert behind_across(own, best, Prune(p=0.999), sign) == ""
            continue
        left = differences[differences != 0]
        p = p_by_counting(differences)
        if len(set(abs(left))) == len(left):
            assert p == pytest.approx(float(stats.wilcoxon(left, alternative="less", method="exact").pvalue))
            counted += 1
        else:  # scipy's tables know no ties
            tied += 1
        assert behind_across(own, best, Prune(p=min(p + 1e-9, 0.9999)), sign)
        assert behind_across(own, best, Prune(p=p - 1e-9), sign) == ""
    assert counted > 30 and tied > 20


def test_who_is_ahead_on_average_or_level_goes_on():
    for differences in ([-0.01, -0.01, -0.01, 0.04], [-0.1, 0.1], [0.0, 0.0, 0.0], [0.1, 0.2]):
        own, best = pair(differences)
        assert behind_across(own, best, Prune(p=0.99), 1) == "", differences
    own, best = pair([-0.01, -0.01, -0.01, 0.02])
    assert behind_across(own, best, Prune(p=0.99), 1)


def test_only_folds_that_both_have_trained_whole_are_compared():
    own, best = pair([-0.1, -0.1, -0.1])
    own.done = {0}
    assert behind_across(own, best, RULE, 1) == ""
    own.done, best.done = {0, 1}, {1, 2}
    assert behind_across(own, best, RULE, 1) == ""
    own.done = {1, 2}
    assert behind_across(own, best, RULE, 1).startswith("after 2 folds")
    assert behind_across(best, best, Prune(p=0.99), 1) == ""


@pytest.mark.parametrize(
    ("levels", "within", "across"),
    [("both", True, True), ("epochs", True, False), ("folds", False, True), ("off", False, False)],
)
def test_each_level_can_be_switched_off(levels, within, across):
    rule = Prune(levels=levels)
    assert bool(why(running(-5.0), known(), rule)) == within
    assert bool(behind_across(*pair([-0.1, -0.2]), rule, 1)) == across


# --- what it would have come to --------------------------------------------------------------------------------------


def test_an_estimate_is_the_best_ones_value_and_the_mean_lead_over_it():
    best = trial(0, {0: [0.5, 0.7, 0.8], 1: [0.4, 0.6, 0.9]}, value=0.86)
    # on fold 0 at its second epoch .7 - .65, on fold 1 at its first .5 - .4: behind .05, ahead .1
    own = trial(1, {0: [0.6, 0.65], 1: [0.5]}, "pruned", done=())
    assert estimate(own, best, 1) == pytest.approx(0.86 + (-0.05 + 0.1) / 2)
    assert estimate(trial(2, {0: [0.1]}, "finished", value=0.3), best, 1) == 0.3
    assert estimate(best, best, 1) == 0.86
    less = trial(0, {0: [1.5, 1.2, 1.0], 1: [1.6, 1.4, 1.1]}, value=1.04)
    dear = trial(
        1, {0: [1.7, 1.3], 1: [1.5]}, "pruned", done=()
    )  # worse by .1, better by .1 ... worse by .1 and better by .1
    assert estimate(dear, less, -1) == pytest.approx(1.04 + (0.1 - 0.1) / 2)
    dear.curves[1] = [1.9]
    assert estimate(dear, less, -1) == pytest.approx(1.04 + (0.1 + 0.3) / 2)


def test_where_nothing_can_be_compared_there_is_no_estimate():
    best = trial(0, {0: [0.5, 0.7]}, value=0.7)
    own = trial(1, {0: [0.6]}, "pruned", done=())
    assert estimate(own, None, 1) is None
    assert estimate(trial(1, {}, "pruned"), best, 1) is None
    assert estimate(trial(1, {0: []}, "pruned"), best, 1) is None
    assert estimate(trial(1, {3: [0.6]}, "pruned"), best, 1) is None  # another fold
    assert estimate(trial(1, {0: [0.6, 0.6, 0.6]}, "pruned", done=()), best, 1) is None  # longer than the best one's
    assert estimate(own, best, 1) == pytest.approx(0.8)


@pytest.mark.parametrize("sign", [1, -1])
def test_trials_cut_anywhere_come_to_their_own_level(sign):
    """Curves that are parallel, whatever folds they are on and however long they were."""
    rng = np.random.default_rng(1)
    best = best_trial(sign)
    best.value = sign * 0.9
    for level in (-0.6, -0.2, 0.05):
        folds = rng.permutation(5)[: rng.integers(1, 6)]
        own = trial(1, {int(f): curve(level, int(rng.integers(1, 5)), int(f), sign) for f in folds}, "pruned", done=())
        assert estimate(own, best, sign) == pytest.approx(sign * (0.9 + level))


def test_the_best_is_the_first_of_the_best_finished_ones():
    values = {0: 0.5, 1: 0.8, 2: 0.8, 3: 0.9, 4: 0.2}
    trials = [trial(number, {0: [value]}, value=value) for number, value in values.items()]
    trials[3].state = "pruned"
    assert best_of(trials, 1) is trials[1] and best_of(list(reversed(trials)), 1) is trials[1]
    assert best_of(trials, -1) is trials[4]
    assert best_of([], 1) is None and best_of([trials[3], trial(7, {0: [1.0]}, "running")], 1) is None


def test_whole_folds_are_judged_by_the_weights_that_were_kept():
    """With `select: best` those are not the last epoch's."""
    best, own = (trial(n, {0: [0.5, 0.9, 0.9], 1: [0.5, 0.9, 0.9]}, value=0.9) for n in (0, 1))
    own.curves, own.state, own.value = {0: [0.5, 0.95, 0.8], 1: [0.5, 0.95, 0.8]}, "running", None
    assert behind_across(own, best, Prune(), 1)
    own.finals = {0: 0.95, 1: 0.95}
    assert behind_across(own, best, Prune(), 1) == ""
    assert estimate(own, best, 1) == pytest.approx(0.95)


def test_trainings_of_other_lengths_are_compared_at_the_same_share_of_them():
    best = trial(0, {0: [0.3, 0.5, 0.7, 0.9]}, value=0.9)
    short = trial(1, {0: [0.4, 0.6]}, "pruned")
    short.n_epochs = 2
    assert estimate(short, best, 1) == pytest.approx(0.9 + (0.6 - 0.9))  # whole folds: end with end
    short.done = set()
    short.curves = {0: [0.4]}
    assert estimate(short, best, 1) == pytest.approx(0.9 + (0.4 - 0.5))  # half way with half way
