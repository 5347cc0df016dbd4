"""Personal data that patterns can find, replaced by what belongs to nobody."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

EMAIL = "email@example.com"  # reserved by RFC 2606
IPV4 = "192.0.2.1"  # for documentation, RFC 5737
IPV6 = "2001:db8::1"  # for documentation, RFC 3849
_HOST = r"@(?:[A-Za-z0-9-]{1,63}+\.){1,8}(?:xn--[A-Za-z0-9-]{1,59}|[A-Za-z]{2,24})(?![A-Za-z0-9])"
# Look-behinds let a match begin only where a run of such characters begins: a run without '@' is read once. So what
# follows an address without a space, such as -mary@example.com, is taken together with it.
_EMAIL = re.compile(rf"(?<![A-Za-z0-9._%+-])(?:[A-Za-z0-9._%+-]{{1,64}}+{_HOST})+")
# What every address ends in: sought by its '@', it is found, or not, in a fraction of the time.
_EMAIL_END = re.compile(_HOST)
# The look-behinds come after the first digit, by which a search can skip through a text: three times as fast.
_IPV4 = re.compile(r"\d(?<![\w.].)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\.?\w)")
# Public addresses are those of 2000::/3, so `B::C` of a program is none.
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}(?::{1,2}[0-9A-Fa-f]{1,4}){1,7}(?:::)?(?!:?\w|\.\d)", re.ASCII)


@dataclass
class MaskPii:
    """Replaces e-mail addresses by `email@example.com` and public IP addresses by `192.0.2.1` and `2001:db8::1`.
    What looks like an address is taken for one: a version such as 1.2.3.4 is.
    """

    emails: bool = True
    ip_addresses: bool = True

    source: ClassVar[str] = "Penedo et al. 2024 (FineWeb), 3.7"

    def apply(self, text: str) -> str:
        if self.emails and _EMAIL_END.search(text):
            text = _EMAIL.sub(EMAIL, text)
        if self.ip_addresses:
            text = _IPV4.sub(_masked(IPV4), text)
            text = _IPV6.sub(_masked(IPV6), text)
        return text


def _masked(replacement: str) -> Callable[[re.Match[str]], str]:
    return lambda found: replacement if _is_public(found[0]) else found[0]


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
