"""No password and no token is shown: neither those of a URI, wherever it stands, nor those of the environment."""

import pytest

from pipeline.config.mistakes import first_line
from pipeline.config.secrets import hidden
from pipeline.config.tuning import Tune


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hush@127.0.0.1:9", "http://127.0.0.1:9"),
        ("postgresql+psycopg2://me:p@ss/wo:rd@host:5/db", "postgresql+psycopg2://host:5/db"),
        ("https://token@host/x", "https://host/x"),
        ("http://me:@host", "http://host"),
        ("at 'http://a:b@c' and \"http://d:e@f/g\"", "at 'http://c' and \"http://f/g\""),
        ("https://host/x?access_token=abc&name=tiny", "https://host/x?access_token=***&name=tiny"),
        ("url: /api/2.0?name=tiny&X-Amz-Signature=abc)", "url: /api/2.0?name=tiny&X-Amz-Signature=***)"),
        ("found 'me:secret@nonsense', and a:b:c@d", "found 'nonsense', and d"),
        # nothing to hide
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("sqlite:////data/x:y@z/mlflow.db", "sqlite:////data/x:y@z/mlflow.db"),
        ('url = re.sub(r"//[^/@]*@", "//", uri)  # a@b.org, http://x', 'url = re.sub(r"//[^/@]*@", "//", uri)  # a@b.org, http://x'),
    ],
)  # fmt: skip
def test_a_uri_is_shown_without_what_opens_its_door(text, shown):
    assert hidden(text) == shown


def test_secrets_of_the_environment_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-of-mine")
    assert hidden("login of me:hush-hush failed, Bearer t0ken-of-mine") == "login of me:*** failed, Bearer ***"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "me:p%40ss-word@host:5000")  # without a scheme; as typed, and decoded
    for text in ("me:p%40ss-word@host:5000 is no store", "FATAL: p@ss-word is wrong"):
        assert "ss-word" not in hidden(text)
    assert "ss-word" not in first_line(RuntimeError("me:p%40ss-word@host:5000 is no store\nmore"))


def test_a_search_s_storage_is_recorded_without_its_password():
    storage = Tune.model_validate({"storage": "postgresql://me:hush@host/db?sslpassword=hush"}).model_dump()["storage"]
    assert storage == "postgresql://host/db?sslpassword=***"
