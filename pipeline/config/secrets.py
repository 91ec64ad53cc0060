"""What no terminal, file or record may show: passwords and tokens, wherever a text holds them.

In: any text, such as a URI, an exception or a diff. Out: the same text without what opens a door. This is the one place
that decides what a URI looks like where a person reads it.
"""

import os
import re
from urllib.parse import parse_qsl, unquote

MASK = "***"
MIN_LENGTH = 4  # of what is masked wherever it stands: a shorter one would be found in ordinary words
# A user's name and password before the host. The password may hold `/` and `@`; digits and `/` are a port and a path.
USER = re.compile(r"(?<=://)(?:[^\s/'\"@:]*:(?!\d+(?:[/?#]|$))[^\s'\"]*|[^\s/'\"]*)@")
# The same where the scheme was forgotten: `me:password@host`.
BARE = re.compile(r"(?<![\w/.@%+-])[\w.%+-]+:(?!//)[^\s/'\"@]+@(?=[\w.-])")
NAMED = r"[\w.%-]*(?:token|key|secret|passw|pwd|sig|cred|auth|session)[\w.%-]*"
QUERY = re.compile(rf"(?i)([?&;]{NAMED}=)[^\s&;'\")]+")
VARIABLE = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|KEY)$")


def hidden(text: str) -> str:
    """`https://me:pw@host/?token=t` as `https://host/?token=***`; secrets of the environment are masked anywhere."""
    text = QUERY.sub(rf"\1{MASK}", BARE.sub("", USER.sub("", text)))
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _secrets() -> set[str]:
    """Of the environment, as they are written and decoded."""
    secrets = {value for name, value in os.environ.items() if VARIABLE.search(name)}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        uri = os.environ.get(name, "")
        before, at, _ = uri.partition("://")[2].rpartition("@") if "://" in uri else uri.rpartition("@")
        if at:
            secrets |= {before, before.partition(":")[2]}
        secrets |= {value for key, value in parse_qsl(uri.partition("?")[2]) if re.fullmatch(NAMED, key, re.I)}
    return {form for secret in secrets for form in (secret, unquote(secret)) if len(form) >= MIN_LENGTH}
