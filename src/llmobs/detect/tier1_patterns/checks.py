"""Format checks: what a pattern found must also satisfy. Each takes the value and says yes or no."""

import base64
import binascii
import ipaddress
import math
from collections import Counter
from collections.abc import Callable

import msgspec

Check = Callable[[str], bool]


def luhn(value: str) -> bool:
    """The mod-10 checksum of payment cards (ISO/IEC 7812-1)."""
    digits = [int(char) for char in value if char.isdigit()]
    if len(digits) < 12 or len(set(digits)) == 1:
        return False
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = digit * 2
        total += digit if index % 2 == 0 else doubled - 9 * (doubled > 9)
    return total % 10 == 0


_IBAN_LENGTHS = {
    # Total length per country, from the SWIFT IBAN registry.
    **dict.fromkeys(["NO"], 15),
    **dict.fromkeys(["BE"], 16),
    **dict.fromkeys(["DK", "FI", "FO", "GL", "NL", "SD"], 18),
    **dict.fromkeys(["MK", "SI"], 19),
    **dict.fromkeys(["AT", "BA", "EE", "KZ", "LT", "LU", "XK"], 20),
    **dict.fromkeys(["CH", "CR", "HR", "LI", "LV"], 21),
    **dict.fromkeys(["BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"], 22),
    **dict.fromkeys(["AE", "GI", "IL", "IQ", "TL"], 23),
    **dict.fromkeys(["AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"], 24),
    **dict.fromkeys(["LY", "PT", "ST"], 25),
    **dict.fromkeys(["IS", "TR"], 26),
    **dict.fromkeys(["FR", "GR", "IT", "MC", "MR", "SM"], 27),
    **dict.fromkeys(["AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"], 28),
    **dict.fromkeys(["BR", "EG", "PS", "QA", "UA"], 29),
    **dict.fromkeys(["JO", "KW", "MU"], 30),
    **dict.fromkeys(["MT", "SC"], 31),
    **dict.fromkeys(["LC"], 32),
    **dict.fromkeys(["RU"], 33),
}


def iban(value: str) -> bool:
    """Country length and mod-97 checksum of an IBAN (ISO 13616)."""
    compact = value.replace(" ", "").replace("-", "").upper()
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact) or not compact.isalnum() or not compact.isascii():
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def us_ssn(value: str) -> bool:
    """Areas, groups and serials that the US Social Security Administration never issues are out."""
    digits = "".join(char for char in value if char.isdigit())
    if len(digits) != 9:
        return False
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def uk_nino(value: str) -> bool:
    """Prefixes that HM Revenue & Customs does not allocate are out."""
    compact = value.replace(" ", "").replace("-", "").upper()
    if len(compact) != 9:
        return False
    prefix = compact[:2]
    return (
        prefix[0] not in "DFIQUV"
        and prefix[1] not in "DFIQUVO"
        and prefix not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}
        and compact[2:8].isdigit()
        and compact[8] in "ABCD"
    )


def public_ip(value: str) -> bool:
    """A well-formed address that could belong to a person: global, not a documentation range."""
    try:
        return ipaddress.ip_address(value.strip("[]")).is_global
    except ValueError:
        return False


def any_ip(value: str) -> bool:
    """A well-formed IP address, other than unspecified, loopback or a mask."""
    try:
        address = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_reserved)


def jwt(value: str) -> bool:
    """Header and payload of a JSON Web Token decode to JSON objects, the header naming `alg`."""
    parts = value.split(".")
    if len(parts) < 2:
        return False
    header = _json_object(parts[0])
    return header is not None and "alg" in header and _json_object(parts[1]) is not None


def _json_object(part: str) -> dict[str, object] | None:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None


def entropy(value: str) -> float:
    """Shannon entropy in bits a character."""
    if not value:
        return 0.0
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values())


_PLACEHOLDERS = (
    "example",
    "sample",
    "your",
    "xxxx",
    "****",
    "....",
    "changeme",
    "change_me",
    "placeholder",
    "redacted",
    "dummy",
    "insert",
    "<",
    "${",
    "{{",
    "123456789",
    "abcdefgh",
    "0000000",
)


def not_placeholder(value: str) -> bool:
    """The value is no stand-in such as `YOUR_KEY`, `xxxx`, `<token>` or `${TOKEN}`."""
    lowered = value.lower()
    return not any(mark in lowered for mark in _PLACEHOLDERS)


CHECKS: dict[str, Check] = {
    "luhn": luhn,
    "iban": iban,
    "us_ssn": us_ssn,
    "uk_nino": uk_nino,
    "public_ip": public_ip,
    "any_ip": any_ip,
    "jwt": jwt,
    "not_placeholder": not_placeholder,
    "has_digit": lambda value: any(char.isdigit() for char in value),
    "has_letter": lambda value: any(char.isalpha() for char in value),
}


def check_named(name: str) -> Check:
    """The check of that name; `entropy>3.5` asks for more bits a character. KeyError when unknown."""
    head, _, bits = name.partition(">")
    if head == "entropy" and bits:
        least = float(bits)
        return lambda value: entropy(value) > least
    return CHECKS[name]
