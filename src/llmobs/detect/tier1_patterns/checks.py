"""Format checks: what a pattern found must also satisfy. Each takes the value and says yes or no."""

import base64
import binascii
import hashlib
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from itertools import pairwise

import msgspec

Check = Callable[[str], bool]


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _digits(value: str) -> list[int]:
    return [int(char) for char in value if char in "0123456789"]


def _compact(value: str) -> str:
    """The value in capitals without blanks, hyphens, dots and slashes."""
    return re.sub(r"[\s\-./]", "", value).upper()


def _weighed(digits: Iterable[int], weights: Iterable[int]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


# Payment and banking


def _luhn_total(digits: list[int]) -> int:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = digit * 2
        total += digit if index % 2 == 0 else doubled - 9 * (doubled > 9)
    return total


def luhn(value: str) -> bool:
    """The mod-10 checksum of payment cards (ISO/IEC 7812-1)."""
    digits = _digits(value)
    return len(digits) >= 12 and len(set(digits)) > 1 and _luhn_total(digits) % 10 == 0


_CARD_PREFIXES = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{4}|222[1-9]\d\d|22[3-9]\d{3}|2[3-6]\d{4}|27[01]\d{3}|2720\d\d)\d{10}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:30[0-59]|36\d|3[89]\d)\d{11}(?:\d\d)?"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?"  # Discover
    r"|(?:352[89]|35[3-8]\d)\d{12}|(?:1800|2131)\d{11}"  # JCB
    r"|62\d{14}(?:\d{3})?|81\d{14}"  # UnionPay
    r"|(?:60|65|81|82|508)\d{13,14}"  # RuPay
    r"|220[0-4]\d{12}"  # Mir
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"  # Maestro
)


def card_shape(value: str) -> bool:
    """Prefix and length of a card brand, whatever the check digit; not one digit over and over."""
    digits = "".join(char for char in value if char.isdecimal())
    return _CARD_PREFIXES.fullmatch(digits) is not None and len(set(digits)) > 1


def card(value: str) -> bool:
    """Prefix, length and checksum of a payment card."""
    return card_shape(value) and luhn(value)


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
    """Country length and mod-97 checksum of an IBAN (ISO 13616), or of all but the word that follows it."""
    return _is_iban(value) or _is_iban(value.rpartition(" ")[0])


def _is_iban(value: str) -> bool:
    compact = value.replace(" ", "").replace("-", "").upper()
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact) or not compact.isalnum() or not compact.isascii():
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def pl_account(value: str) -> bool:
    """A Polish account number (NRB): an IBAN without its `PL`."""
    return _is_iban("PL" + value)


_COUNTRIES = _listed(
    "AD AE AF AG AI AL AM AO AR AS AT AU AW AZ BA BB BD BE BF BG BH BI BJ BM BN BO BR BS BT BW BY BZ CA CD "
    "CF CG CH CI CK CL CM CN CO CR CU CV CW CY CZ DE DJ DK DM DO DZ EC EE EG ER ES ET FI FJ FK FM FO FR GA "
    "GB GD GE GF GG GH GI GL GM GN GP GQ GR GT GU GW GY HK HN HR HT HU ID IE IL IM IN IQ IR IS IT JE JM JO "
    "JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MG MH MK ML MM MN MO "
    "MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NG NI NL NO NP NR NZ OM PA PE PF PG PH PK PL PM PR PS PT PW "
    "PY QA RE RO RS RU RW SA SB SC SD SE SG SI SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TG TH TJ TL TM TN "
    "TO TR TT TV TW TZ UA UG US UY UZ VA VC VE VG VI VN VU WS XK YE YT ZA ZM ZW"
)


def bic(value: str) -> bool:
    """Length and country of a bank identifier code (ISO 9362)."""
    code = value.strip().upper()
    return len(code) in {8, 11} and code[:4].isalpha() and code[4:6] in _COUNTRIES


def us_aba(value: str) -> bool:
    """District and checksum of a US bank routing number."""
    digits = _digits(value)
    if len(digits) != 9 or len(set(digits)) == 1:
        return False
    district = digits[0] * 10 + digits[1]
    known = district <= 12 or 21 <= district <= 32 or 61 <= district <= 72 or district == 80
    return known and _weighed(digits, (3, 7, 1, 3, 7, 1, 3, 7, 1)) % 10 == 0


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def bitcoin(value: str) -> bool:
    """Checksum of a Bitcoin or Litecoin address: base58check, or bech32 in either form."""
    if "1" in value[2:4] and value.lower().startswith(("bc1", "tb1", "ltc1")):
        return _bech32(value)
    if len(value) > 35:
        return False
    number = 0
    for char in value:
        place = _BASE58.find(char)
        if place < 0:
            return False
        number = number * 58 + place
    if number >= 1 << 200:
        return False
    raw = number.to_bytes(25)
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def _bech32(value: str) -> bool:
    if value not in {value.lower(), value.upper()}:
        return False
    prefix, _, data = value.lower().rpartition("1")
    places = [_BECH32.find(char) for char in data]
    if -1 in places:
        return False
    checksum = 1
    expanded = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix] + places
    for part in expanded:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ part
        for index, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> index & 1 else 0
    return checksum in {1, 0x2BC830A3}


# National numbers


def us_ssn(value: str) -> bool:
    """Areas, groups and serials that the US Social Security Administration never issues are out."""
    digits = "".join(char for char in value if char.isdecimal())
    if len(digits) != 9 or digits in {"078051120", "219099999", "123456789"}:
        return False
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def us_itin(value: str) -> bool:
    """The range of US individual taxpayer numbers."""
    digits = "".join(char for char in value if char.isdecimal())
    if len(digits) != 9 or digits[0] != "9":
        return False
    group = int(digits[3:5])
    return 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99


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


def uk_nhs(value: str) -> bool:
    """Mod-11 checksum of a UK National Health Service number."""
    digits = _digits(value)
    if len(digits) != 10 or len(set(digits)) == 1:
        return False
    rest = 11 - _weighed(digits, range(10, 1, -1)) % 11
    return rest % 11 == digits[9] and rest != 10


def ca_sin(value: str) -> bool:
    """Luhn checksum of a Canadian social insurance number; none starts with 0 or 8."""
    digits = _digits(value)
    return len(digits) == 9 and digits[0] not in {0, 8} and _luhn_total(digits) % 10 == 0


_VERHOEFF_D = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_VERHOEFF_P = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 5, 7, 6, 2, 8, 3, 0, 9, 4),
    (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7),
    (9, 4, 5, 3, 1, 2, 6, 8, 7, 0),
    (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5),
    (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)


def aadhaar(value: str) -> bool:
    """Verhoeff checksum of an Indian Aadhaar number; none starts with 0 or 1."""
    digits = _digits(value)
    if len(digits) != 12 or digits[0] < 2 or len(set(digits)) < 3:
        return False
    check = 0
    for index, digit in enumerate(reversed(digits)):
        check = _VERHOEFF_D[check][_VERHOEFF_P[index % 8][digit]]
    return check == 0


def de_tax_id(value: str) -> bool:
    """ISO 7064 checksum of a German tax number; one digit of the first ten stands two or three times."""
    digits = _digits(value)
    if len(digits) != 11 or digits[0] == 0:
        return False
    counts = sorted(Counter(digits[:10]).values())
    if counts[-1] not in {2, 3} or sum(count > 1 for count in counts) != 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = (digit + product) % 10 or 10
        product = product * 2 % 11
    return (11 - product) % 10 == digits[10]


def fr_nir(value: str) -> bool:
    """Mod-97 key of a French social security number."""
    compact = _compact(value)
    if len(compact) != 15 or compact[0] not in "12378":
        return False
    body = compact[:13].replace("2A", "19").replace("2B", "18")
    if not (body + compact[13:]).isdecimal():
        return False
    return 97 - int(body) % 97 == int(compact[13:])


def es_dni(value: str) -> bool:
    """Control letter of a Spanish DNI or NIE."""
    compact = _compact(value)
    body = {"X": "0", "Y": "1", "Z": "2"}.get(compact[:1], compact[:1]) + compact[1:-1]
    return len(body) == 8 and body.isdecimal() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23] == compact[-1]


_CF_ODD_LETTERS = (
    1,
    0,
    5,
    7,
    9,
    13,
    15,
    17,
    19,
    21,
    2,
    4,
    18,
    20,
    11,
    3,
    6,
    8,
    12,
    14,
    16,
    10,
    22,
    25,
    24,
    23,
)
_CF_ODD = {chr(65 + place): worth for place, worth in enumerate(_CF_ODD_LETTERS)} | {
    str(digit): _CF_ODD_LETTERS[digit] for digit in range(10)
}


def it_codice_fiscale(value: str) -> bool:
    """Control letter of an Italian fiscal code."""
    compact = _compact(value)
    if len(compact) != 16 or any(char not in _CF_ODD for char in compact):
        return False
    total = sum(
        _CF_ODD[char] if index % 2 == 0 else (int(char) if char.isdigit() else ord(char) - 65)
        for index, char in enumerate(compact[:15])
    )
    return chr(65 + total % 26) == compact[15]


def nl_bsn(value: str) -> bool:
    """Mod-11 checksum of a Dutch citizen number."""
    digits = _digits(value)
    return (
        len(digits) == 9 and len(set(digits)) > 1 and _weighed(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0
    )


def be_nrn(value: str) -> bool:
    """Mod-97 checksum of a Belgian national number, for births before and after 2000."""
    compact = "".join(map(str, _digits(value)))
    if len(compact) != 11 or int(compact[2:4]) % 20 > 12:
        return False
    return int(compact[9:]) in {97 - int(compact[:9]) % 97, 97 - int("2" + compact[:9]) % 97}


def ch_ahv(value: str) -> bool:
    """EAN-13 checksum of a Swiss social insurance number."""
    digits = _digits(value)
    if len(digits) != 13 or digits[:3] != [7, 5, 6]:
        return False
    return -_weighed(digits, (1, 3) * 6) % 10 == digits[12]


def pl_pesel(value: str) -> bool:
    """Date and checksum of a Polish PESEL."""
    digits = _digits(value)
    if len(digits) != 11 or not 1 <= (digits[2] * 10 + digits[3]) % 20 <= 12:
        return False
    if not 1 <= digits[4] * 10 + digits[5] <= 31:
        return False
    return -_weighed(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10 == digits[10]


def se_personnummer(value: str) -> bool:
    """Date and Luhn digit of a Swedish personal or coordination number."""
    digits = _digits(value)[-10:]
    if len(digits) != 10:
        return False
    month, day = digits[2] * 10 + digits[3], digits[4] * 10 + digits[5]
    day -= 60 * (day > 60)
    return 1 <= month <= 12 and 1 <= day <= 31 and _luhn_total(digits) % 10 == 0


def fi_hetu(value: str) -> bool:
    """Control character of a Finnish personal identity code."""
    compact = value.strip().upper()
    if len(compact) != 11 or not (compact[:6] + compact[7:10]).isdecimal():
        return False
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(compact[:6] + compact[7:10]) % 31] == compact[10]


def no_fnr(value: str) -> bool:
    """The two mod-11 checksums of a Norwegian birth number."""
    digits = _digits(value)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    first = -_weighed(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
    second = -_weighed(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return first == digits[9] and second == digits[10]


def dk_cpr(value: str) -> bool:
    """The date inside a Danish personal number, which has no checksum any more."""
    digits = _digits(value)
    if len(digits) != 10:
        return False
    return 1 <= digits[0] * 10 + digits[1] <= 31 and 1 <= digits[2] * 10 + digits[3] <= 12


def pt_nif(value: str) -> bool:
    """Mod-11 checksum of a Portuguese tax number."""
    digits = _digits(value)
    if len(digits) != 9 or digits[0] in {0, 4, 7}:
        return False
    rest = 11 - _weighed(digits, range(9, 1, -1)) % 11
    return (0 if rest > 9 else rest) == digits[8]


def br_cpf(value: str) -> bool:
    """The two mod-11 checksums of a Brazilian CPF."""
    digits = _digits(value)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    first = _weighed(digits, range(10, 1, -1)) * 10 % 11 % 10
    second = _weighed(digits, range(11, 1, -1)) * 10 % 11 % 10
    return digits[9:] == [first, second]


def au_tfn(value: str) -> bool:
    """Mod-11 checksum of an Australian tax file number."""
    digits = _digits(value)
    return (
        len(digits) == 9 and len(set(digits)) > 1 and _weighed(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0
    )


def au_medicare(value: str) -> bool:
    """Checksum of an Australian Medicare card number."""
    digits = _digits(value)
    if len(digits) not in {10, 11} or not 2 <= digits[0] <= 6:
        return False
    return _weighed(digits[:8], (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == digits[8]


def za_id(value: str) -> bool:
    """Date and Luhn digit of a South African identity number."""
    digits = _digits(value)
    if len(digits) != 13 or not 1 <= digits[2] * 10 + digits[3] <= 12:
        return False
    return 1 <= digits[4] * 10 + digits[5] <= 31 and digits[10] < 3 and _luhn_total(digits) % 10 == 0


def cn_resident(value: str) -> bool:
    """Date and mod-11 control character of a Chinese resident identity number."""
    compact = _compact(value)
    if len(compact) != 18 or not compact[:17].isdecimal() or not compact.isascii():
        return False
    if not _is_date(int(compact[6:10]), int(compact[10:12]), int(compact[12:14])):
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[_weighed(_digits(compact[:17]), weights) % 11] == compact[17]


def kr_rrn(value: str) -> bool:
    """The date and century digit of a South Korean resident number."""
    digits = _digits(value)
    if len(digits) != 13 or not 1 <= digits[6] <= 8:
        return False
    return 1 <= digits[2] * 10 + digits[3] <= 12 and 1 <= digits[4] * 10 + digits[5] <= 31


def tr_tckn(value: str) -> bool:
    """The two checksums of a Turkish identity number."""
    digits = _digits(value)
    if len(digits) != 11 or digits[0] == 0:
        return False
    tenth = (sum(digits[0:9:2]) * 7 - sum(digits[1:8:2])) % 10
    return digits[9] == tenth and sum(digits[:10]) % 10 == digits[10]


# Devices, vehicles, networks


def imei(value: str) -> bool:
    """Luhn checksum of a phone's equipment number."""
    digits = _digits(value)
    return len(digits) == 15 and len(set(digits)) > 2 and _luhn_total(digits) % 10 == 0


_VIN_VALUES = dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, *range(2, 10)), strict=True)
)


def vin(value: str) -> bool:
    """Alphabet and check digit of a vehicle identification number (ISO 3779, North America)."""
    compact = value.strip().upper()
    if len(compact) != 17 or compact.isdigit() or compact.isalpha():
        return False
    try:
        numbers = [int(char) if char.isdigit() else _VIN_VALUES[char] for char in compact]
    except (KeyError, ValueError):
        return False
    rest = _weighed(numbers, (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return compact[8] == ("X" if rest == 10 else str(rest))


def mac(value: str) -> bool:
    """A hardware address that can be a device's: not broadcast, not empty, not a counting row."""
    compact = re.sub(r"[^0-9a-f]", "", value.lower())
    return (
        len(compact) == 12
        and len(set(compact)) > 3
        and not compact.startswith(("01005e", "3333", "ffffff", "00005e0053"))  # groups, and documentation
        and compact not in {"001122334455", "aabbccddeeff", "0123456789ab"}
    )


_KNOWN_RESOLVERS = frozenset(
    ipaddress.ip_address(text)
    for text in _listed(
        "1.1.1.1 1.0.0.1 8.8.8.8 8.8.4.4 9.9.9.9 208.67.222.222 208.67.220.220 4.4.4.4 1.2.3.4 4.3.2.1 "
        "2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001"
    )
)


def public_ip(value: str) -> bool:
    """A well-formed address that could belong to a person: global, neither documentation nor resolver."""
    try:
        address = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        return False
    return address.is_global and not address.is_multicast and address not in _KNOWN_RESOLVERS


def any_ip(value: str) -> bool:
    """A well-formed IP address, other than unspecified, loopback or a mask."""
    try:
        address = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_reserved)


_NOT_DOMAINS = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|local|internal|lan|corp)$"
    r"|(?:^|\.)(?:examples?|acme|domain|yourdomain|mydomain|yourcompany|mycompany|company|foo|bar|baz|test|"
    r"email|mail|site|website|server|host|hostname|localhost|contoso|fabrikam)\.(?:com|org|net|edu|io|co|dev)$"
    r"|(?:^|\.)(?:users\.noreply\.github\.com|gserviceaccount\.com|group\.calendar\.google\.com)$"
    r"|\.(?:png|jpe?g|gif|svg|webp|ico|css|js|ts|py|rb|go|rs|md|txt|html?|json|ya?ml|toml|whl|gz|zip|service|"
    r"git|sh|conf|cfg|ini|log|csv|xml|pdf|mp[34]|so|dll|exe)$"
)
_NOT_PEOPLE = re.compile(
    r"^(?:git|svn|hg|no[-_.]?reply|do[-_.]?not[-_.]?reply|donotreply|mailer-daemon|postmaster|user(?:name)?|"
    r"your[-_.]?\w*|my[-_.]?e?mail|foo|bar|foobar|name|someone|somebody|anyone|nobody|root|example|test|"
    # A desk, not a person.
    r"info|infos|contact[oi]?|kontakt|contato|contatti|support|help(?:desk)?|hilfe|service|servicio|security|abuse|office|"
    r"sales|ventas|vertrieb|hello|press[ea]?|media|news(?:letter)?|marketing|jobs|careers|karriere|hr|billing|invoices?|"
    r"rechnung(?:en)?|orders?|bestellung(?:en)?|bookings?|reservations?|reception|turismo|webmaster|hostmaster|admin|"
    r"administrator|enquir(?:y|ies)|inquiries|feedback|legal|privacy|dpo|datenschutz|redaktion|customer[-_.]?(?:care|service)|"
    r"kundenservice|facturaci[oó]n|ekonomi|faktura|comptabilite|buchhaltung|atendimento|sac|alerts?|notifications?)$"
)


_SOMEBODY = re.compile(
    r"^(?!(?:j(?:ane|ohn|\.)?[._-]?doe|first|last|your|user|name|some|any|test|sample|example|no[._-]?reply)\b)[a-z]+[._-][a-z]{3,}\d{0,4}"
    r"@(?:[\w-]+\.)*example\.(?:com|org|net)$"
)
"""A name and a surname at one of the domains that invented persons live at: told apart from `user@example.com`."""


def personal_email(value: str) -> bool:
    """An address that can reach somebody: no `user@example.com`, no `git@`, no `noreply@`, no file name."""
    local, _, domain = value.lower().rpartition("@")
    if not local or ".." in value or not domain.rpartition(".")[2].isalpha():
        return False
    if _NOT_PEOPLE.search(local) or local == domain.partition(".")[0]:
        return False
    return not _NOT_DOMAINS.search(domain) or _SOMEBODY.match(value.lower()) is not None


_SERVICE_LINE = re.compile(
    r"0(?:800|808|120|850|900|180\d)\d{3,8}$|(?:0|44)(?:30[036]|33[03]|34[345]|37[0-2]|84[345]|87[0-3])\d{7}$|90[0-2]\d{6}$"
)
"""Numbers that organisations pay for or are paid by, in Europe, Japan and Brazil; 03, 084 and 087 in Britain."""


def phone(value: str) -> bool:
    """Seven to fifteen digits that may reach a person: no fictional 555-01xx, service line, counting row or date."""
    text = re.split(r"(?i)\s*(?:x|ext)", value)[0]
    digits = "".join(char for char in text if char.isdecimal())
    if not 7 <= len(digits) <= 16 or len(set(digits)) < 3 or re.search(r"55501\d\d$", digits):
        return False
    if digits in "01234567890123456789" or digits in "98765432109876543210" or _SERVICE_LINE.match(digits):
        return False
    return not re.fullmatch(
        r"\s*(?:(?:19|20)\d\d[-/. ](?:0?[1-9]|1[0-2])[-/. ](?:0?[1-9]|[12]\d|3[01])"
        r"|(?:0?[1-9]|[12]\d|3[01])[-/. ](?:0?[1-9]|[12]\d|3[01])[-/. ](?:19|20)\d\d"
        r"|(?:1\d|20)\d\d\s?[-– ]\s?(?:1\d|20)\d\d)\s*",
        text,
    )


def personal_number(value: str) -> bool:
    """Six or more digits (five beside letters) that are no counting row, no repetition, no date alone and no plain thousand."""
    digits = "".join(char for char in value if char.isdecimal())
    letters = any(char.isalpha() for char in value)
    if len(digits) < (5 if letters else 6) or len(digits) > 20 or len(set(digits)) < 3:
        return False
    if digits in "01234567890123456789" or digits in "98765432109876543210" or digits.endswith("00000"):
        return False
    return not re.fullmatch(
        r"\s*(?:[0-9]{1,2}[./-][0-9]{1,2}[./-](?:19|20)?[0-9]{2}|(?:19|20)[0-9]{2}[./-][0-9]{1,2}[./-][0-9]{1,2})\s*",
        value,
    )


# Credentials


SHORTEST_SIGNATURE = 32
"""Characters; 43 are 32 bytes in base64url, and now and then one is cut off in a log."""


def jwt(value: str) -> bool:
    """Header and payload of a JSON Web Token decode to JSON objects, the header naming `alg`.

    The signature is none or as long as one can be: 32 bytes are the least that RFC 7518 knows, and a shorter one is an example's.
    """
    parts = value.split(".")
    if len(parts) < 2 or (len(parts) > 2 and 0 < len(parts[2]) < SHORTEST_SIGNATURE):
        return False
    header = _json_object(parts[0])
    return header is not None and "alg" in header and _json_object(parts[1]) is not None


def _json_object(part: str) -> dict[str, object] | None:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None


def basic_auth(value: str) -> bool:
    """The base64 of an HTTP basic header holds `user:password`, neither of them a stand-in."""
    try:
        plain = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    name, colon, password = plain.partition(":")
    return bool(colon and name and password) and plain.isprintable() and _no_stand_in(password)


def entropy(value: str) -> float:
    """Shannon entropy in bits a character."""
    if not value:
        return 0.0
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values())


_FOLLOWERS = _listed(
    # Each letter with those that often follow it in words of Latin script: 96 % of the pairs in the
    # benign texts of the training data, 38 % of the pairs in random letters.
    "abcdfgiklmnprstuvy baeiloru cacehiklorstuy dadeiorsuy eacdefgilmnopqrstuvwxy faefilortu "
    "gaehilnorsu haeiortuy iabcdefgklmnoprstvz jaeou kaeis ladeilmostuy mabeimopsu "
    "nacdefginostuvy oabcdfgiklmnoprstuvw paehiloprstu qu racdegiklmnorstuvy sacehiklmopstuwy "
    "taehiloprstuwy uabcdegilmnprst vaeio waehino xapt yemops zaeo "
)
_PAIRS = frozenset(entry[0] + second for entry in _FOLLOWERS for second in entry[1:])


def randomness(value: str) -> float:
    """How unlike words and names the value runs: about 0.05 for words, 0.5 to 0.7 for random characters.

    The mean over neighbouring letters and digits of a cost: 1 for letters that rarely meet, 0.6 for a
    letter beside a digit, 0.3 for two digits, 0.35 more for a capital after a small letter.
    """
    total = pairs = 0
    for first, second in pairwise(value):
        cost = _COSTS[first + second]
        if cost >= 0:
            pairs += 1
            total += cost
    return total / 100 / pairs if pairs else 0.0


class _Costs(dict[str, int]):
    """What two neighbours cost, in hundredths; -1 where one is neither letter nor digit."""

    def __missing__(self, pair: str) -> int:
        cost = _cost(*pair)
        if len(self) < 20_000:  # all pairs of two alphabets, with room to spare
            self[pair] = cost
        return cost


def _cost(first: str, second: str) -> int:
    if not (first.isalnum() and second.isalnum()):
        return -1
    if not (first.isalpha() and second.isalpha()):
        return 30 if first.isdigit() and second.isdigit() else 60
    rare = 0 if (first + second).lower() in _PAIRS else 100
    return rare + (35 if first.islower() and second.isupper() else 0)


_COSTS = _Costs()

_PLACEHOLDERS = (
    "example",
    "sample",
    "your",
    "xxxx",
    "****",
    "....",
    "####",
    "••••",
    "…",
    "[...",
    "changeme",
    "change_me",
    "change-me",
    "replace",
    "placeholder",
    "redacted",
    "removed",
    "dummy",
    "insert",
    "foobar",
    "deadbeef",
    "_here",
    "-here",
    "tokenhere",
    "keyhere",
    "stringhere",
    "my-bot",
    "my_token",
    "not-a-",
    "1234-1234",
    "-abc123",
    "_abc123",
    "<",
    "${",
    "{{",
    "%s",
)


_NOUGHT = ord("0")


def _longest_row(value: str) -> int:
    """Length of the longest stretch in which each character repeats or counts up from the last."""
    longest = equal = rising = 1
    last = -2
    for code in map(ord, value):
        step = code - last
        last = code
        if step == 0:
            equal += 1
            rising = 1
            longest = max(longest, equal)
        elif step == 1 or (step == -9 and code == _NOUGHT):
            rising += 1
            equal = 1
            longest = max(longest, rising)
        else:
            equal = rising = 1
    return longest


def not_placeholder(value: str) -> bool:
    """The value is no stand-in such as `YOUR_KEY`, `xxxx`, `<token>`, `${TOKEN}` or `123456789`."""
    lowered = value.lower()
    if any(mark in lowered for mark in _PLACEHOLDERS):
        return False
    row = _longest_row(lowered)
    return row < 6 or row * 3 < len(value)


_PATH_OR_REFERENCE = re.compile(
    r"(?i)^(?:[a-z][a-z0-9+.\-]*://|\.{0,2}/[a-z0-9_.\-]+(?:/|$)|~/|[a-z]:\\|\$|%[a-z_]+%|@|--?[a-z][a-z\-]*$|#|\*|\(|"
    r"(?:sha\d+|md5|blake\d\w*|bcrypt)[:\-]|data:|env[:.]|arn:|projects/|vault:|secretref|ssh-(?:rsa|ed25519))"
    r"|\.(?:json|ya?ml|toml|pem|key|crt|cer|txt|py|js|ts|go|rb|env|conf|cfg|ini|com|org|net|html?|png|jpe?g|svg|"
    r"gz|zip|whl|pdf|csv|md|log|xml|sql|pub)$"
)
_UUID = re.compile(r"(?i)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def secret(value: str) -> bool:
    """A value that reads as drawn at random: no word, name, path, reference, stand-in or plain number."""
    value = value.rstrip(".,;:!?'\"")
    if len(value) < 8 or not not_placeholder(value) or _PATH_OR_REFERENCE.search(value):
        return False
    if not any(char.isdigit() for char in value):
        # Letters alone: long or mixed ones only, for names of things are made of letters.
        mixed = any(c.islower() for c in value) and any(c.isupper() for c in value)
        return len(value) >= 16 and entropy(value) > 3.0 and randomness(value) > (0.45 if mixed else 0.5)
    if not any(char.isalpha() for char in value):
        return len(_digits(value)) >= 15 and entropy(value) > 2.6 and value.isdigit()
    return entropy(value) > 2.6 and randomness(value) > (0.33 if len(value) < 14 else 0.3)


def secret_not_id(value: str) -> bool:
    """As `secret`, and neither a UUID nor the hex of a common digest, which ids and hashes look like."""
    bare = value.rstrip(".,;:!?'\"")
    if _UUID.search(bare) or (len(bare) in {40, 56, 64, 96, 128} and re.fullmatch(r"[0-9a-f]+", bare)):
        return False
    return secret(value)


_STAND_INS = _listed(
    "password passwd passw0rd pass pwd secret token user username admin root test none null true false undefined "
    "string str value empty required optional default hidden masked encrypted unknown nil foo bar baz qux "
    "hunter2 p4ssw0rd password1 password123 pass123 mypassword mypass secret123 changeme changeit letmein"
)
_IDENTIFIER = re.compile(
    r"[A-Z][A-Z0-9_]*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[a-z]+(?:_[a-z0-9]+)+|[a-z]+(?:-[a-z]+)+-?\d?"
    r"|[a-z]+(?:[A-Z][a-z]+)+\d?|v?\d+(?:\.\d+)+\w*|\d+(?:[.,]\d+)*(?:%|[a-z]{1,7})?|[\d:/.\-]+|[a-z]+\d"
)


def _no_stand_in(value: str) -> bool:
    lowered = value.lower()
    if lowered in _STAND_INS or any(mark in lowered for mark in _PLACEHOLDERS):
        return False
    return len(set(lowered)) > 2 and not value.startswith(("$", "%", "<", "{", "[", "("))


def password(value: str) -> bool:
    """A value that somebody chose as a password: mixed classes, no word, number, name or stand-in."""
    value = value.rstrip(".,;:'\"")
    if (
        len(value) < 6
        or not any(char.isascii() and char.isalnum() for char in value)
        or not _no_stand_in(value)
        or _PATH_OR_REFERENCE.search(value)
    ):
        return False
    if _IDENTIFIER.fullmatch(value):
        return False
    letters = any(char.isalpha() for char in value)
    digits = any(char.isdigit() for char in value)
    signs = any(not char.isalnum() for char in value.strip("!?"))
    if letters and digits:
        return True
    return signs and letters and any(char in "!@#$%^&*+=~" for char in value.strip("!?*"))


def seed_words(value: str) -> bool:
    """Twelve to twenty-four words as wallets draw them: none of the small words that sentences have, hardly one twice."""
    words = re.findall("[a-z]{3,8}", value.lower())
    small = {
        "the",
        "and",
        "are",
        "was",
        "for",
        "with",
        "that",
        "this",
        "from",
        "you",
        "your",
        "have",
        "not",
        "but",
        "will",
    }
    return len(words) >= 12 and not small & set(words) and len(set(words)) >= len(words) - 1


def three_classes(value: str) -> bool:
    """Three of small letters, capitals, digits and signs."""
    return (
        any(char.islower() for char in value)
        + any(char.isupper() for char in value)
        + any(char.isdigit() for char in value)
        + any(not char.isalnum() for char in value.rstrip(".,:!?"))
    ) >= 3


def url_password(value: str) -> bool:
    """The password part of a URL is given: no stand-in, no variable, no row of the word itself."""
    return len(value) >= 3 and _no_stand_in(value) and not re.fullmatch(r"[A-Z_]+", value)


CHECKS: dict[str, Check] = {
    "aadhaar": aadhaar,
    "any_ip": any_ip,
    "au_medicare": au_medicare,
    "au_tfn": au_tfn,
    "basic_auth": basic_auth,
    "be_nrn": be_nrn,
    "bic": bic,
    "bitcoin": bitcoin,
    "br_cpf": br_cpf,
    "ca_sin": ca_sin,
    "card": card,
    "card_shape": card_shape,
    "ch_ahv": ch_ahv,
    "cn_resident": cn_resident,
    "de_tax_id": de_tax_id,
    "dk_cpr": dk_cpr,
    "es_dni": es_dni,
    "fi_hetu": fi_hetu,
    "fr_nir": fr_nir,
    "has_digit": lambda value: any(char.isdigit() for char in value),
    "has_letter": lambda value: any(char.isalpha() for char in value),
    "has_lower": lambda value: any(char.islower() for char in value),
    "has_upper": lambda value: any(char.isupper() for char in value),
    "iban": iban,
    "imei": imei,
    "it_codice_fiscale": it_codice_fiscale,
    "jwt": jwt,
    "kr_rrn": kr_rrn,
    "luhn": luhn,
    "mac": mac,
    "nl_bsn": nl_bsn,
    "no_fnr": no_fnr,
    "personal_number": personal_number,
    "not_placeholder": not_placeholder,
    "password": password,
    "personal_email": personal_email,
    "phone": phone,
    "pl_account": pl_account,
    "pl_pesel": pl_pesel,
    "pt_nif": pt_nif,
    "public_ip": public_ip,
    "se_personnummer": se_personnummer,
    "secret": secret,
    "secret_not_id": secret_not_id,
    "seed_words": seed_words,
    "three_classes": three_classes,
    "tr_tckn": tr_tckn,
    "uk_nhs": uk_nhs,
    "uk_nino": uk_nino,
    "url_password": url_password,
    "us_aba": us_aba,
    "us_itin": us_itin,
    "us_ssn": us_ssn,
    "vin": vin,
    "za_id": za_id,
}

_MEASURES: dict[str, Callable[[str], float]] = {
    "entropy": entropy,
    "randomness": randomness,
    "length": len,
    "digits": lambda value: sum(char.isdigit() for char in value),
}


def check_named(name: str) -> Check:
    """The check of that name; `entropy>3.5` asks for more than that, so do randomness, length and digits.

    KeyError when unknown, ValueError when the figure is none.
    """
    head, _, figure = name.partition(">")
    if head in _MEASURES and figure:
        measure = _MEASURES[head]
        least = float(figure)
        return lambda value: measure(value) > least
    return CHECKS[name]
