import pytest

from llmobs.detect.tier1_patterns.checks import CHECKS, check_named, entropy, randomness
from llmobs.detect.tier1_patterns.proofs import fill

# Published test numbers and checksums worked out by hand; no number of a person.
NUMBERS: dict[str, tuple[list[str], list[str]]] = {
    "aadhaar": (["2341 2341 2346", "234123412346"], ["2341 2341 2345", "1341 2341 2346", "2341"]),
    "any_ip": (["192.168.0.7", "10.1.2.3"], ["127.0.0.1", "0.0.0.0", "::1", "300.1.1.1"]),
    "au_medicare": (["2123 45670 1", "2123456701"], ["2123 45671 1", "9123 45670 1"]),
    "au_tfn": (["123 456 782"], ["123 456 783", "000 000 000", "12345678"]),
    "be_nrn": (["85.07.30-033 28"], ["85.07.30-033 29", "85.17.30-033 28"]),
    "bic": (["DEUTDEFF", "BNPAFRPPXXX"], ["DEUTXXFF", "DEUTDEF", "DE12DEFF"]),
    "bitcoin": (
        ["1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"],
        [
            "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdp",
            "bc1Qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "0OIl",
            "1" + "z" * 80,
        ],
    ),
    "br_cpf": (["529.982.247-25"], ["529.982.247-26", "111.111.111-11"]),
    "ca_sin": (["130 692 544"], ["130 692 545", "046 454 286", "830 692 544"]),
    "card": (
        ["4111 1111 1111 1111", "5500005555555559", "378282246310005", "6011-1111-1111-1117"],
        ["4111 1111 1111 1112", "9111 1111 1111 1111", "0000000000000000", "4242"],
    ),
    "card_shape": (["4111 1111 1111 1112"], ["1234 5678 9012 3456", "4444444444444444"]),
    "ch_ahv": (["756.9217.0769.85"], ["756.9217.0769.84", "755.9217.0769.85"]),
    "cn_resident": (["11010519491231002X"], ["110105194912310021", "11010519491331002X"]),
    "de_tax_id": (["86 095 742 719"], ["86 095 742 718", "06 095 742 719", "11111111111"]),
    "dk_cpr": (["070761-4285"], ["320761-4285", "071361-4285"]),
    "es_dni": (["12345678Z", "X1234567L"], ["12345678A", "X1234567M", "Z"]),
    "fi_hetu": (["131052-308T"], ["131052-308A", "131052-30"]),
    "fr_nir": (["2 55 08 14 168 025 38"], ["2 55 08 14 168 025 39", "9 55 08 14 168 025 38"]),
    "iban": (
        [
            "GB82WEST12345698765432",
            "gb82 west 1234 5698 7654 32",
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00 an",
        ],
        ["GB82WEST12345698765433", "GB82WEST1234569876543", "XX82WEST12345698765432"],
    ),
    "imei": (["49-015420-323751-8"], ["49-015420-323751-9", "000000000000000"]),
    "it_codice_fiscale": (["RSSMRA85T10A562S", "rssmra85t10a562s"], ["RSSMRA85T10A562T", "RSSMRA85"]),
    "kr_rrn": (["900101-1234567"], ["901301-1234567", "900101-9234567"]),
    "luhn": (["4111111111111111"], ["4111111111111112", "0000000000000000", "18"]),
    "mac": (
        ["3c:22:fb:9a:10:7e"],
        ["01:00:5e:7f:ff:fa", "ff:ff:ff:ff:ff:ff", "00:11:22:33:44:55", "3c:22:fb"],
    ),
    "nl_bsn": (["111222333"], ["111222334", "000000000"]),
    "no_fnr": (["01010750160"], ["01010750161", "00000000000"]),
    "pl_account": (["58 1160 2202 0000 0003 1919 9988"], ["59 1160 2202 0000 0003 1919 9988", "58 1160"]),
    "pl_pesel": (["44051401359"], ["44051401358", "44991401359"]),
    "pt_nif": (["123456789"], ["123456788", "023456789"]),
    "public_ip": (
        ["36.106.174.11", "[2003:e8:2f1a:5b00::1]"],
        ["192.168.0.1", "203.0.113.9", "8.8.8.8", "127.0.0.1", "1.2.3", "2001:db8::1", "224.0.1.1"],
    ),
    "personal_number": (
        ["780924/4124", "4827193K", "65 170839 B 515", "L4CT82VR75"],
        ["123456", "K123", "17.11.1991", "2400000", "1111111", "12345"],
    ),
    "se_personnummer": (["811228-9874", "19811228-9874"], ["811228-9875", "811328-9874"]),
    "tr_tckn": (["10000000146"], ["10000000147", "00000000146"]),
    "uk_nhs": (["943 476 5919"], ["943 476 5918", "1111111111"]),
    "uk_nino": (["AB 12 34 56 C"], ["BG 12 34 56 C", "QQ 12 34 56 C", "AB 12 34 56 E", "AB"]),
    "us_aba": (["021000021"], ["021000022", "991000021", "000000000"]),
    "us_itin": (["912-78-4321"], ["912-10-4321", "812-78-4321"]),
    "us_ssn": (["536-22-8714"], ["000-22-8714", "666-22-8714", "912-22-8714", "536-00-8714", "078-05-1120"]),
    "vin": (
        ["1M8GDM9AXKP042788", "1HGCM82633A004352"],
        ["1M8GDM9A1KP042788", "1M8GDM9AXKP04278O", "11111111111111111"],
    ),
    "za_id": (["8001015009087"], ["8001015009088", "8013015009087"]),
    "personal_email": (
        ["maria.keller@example.com", "maria.keller@gmx.de", "jo+shop@fastmail.com"],
        [
            "jane.doe@example.com",
            "hotel@hotel.de",
            "user@example.com",
            "git@github.com",
            "noreply@shop.io",
            "info@shop.io",
            "customer-service@shop.io",
            "icon@2x.png",
            "a@b.test",
            "x@host.local",
            "bot@users.noreply.github.com",
        ],
    ),
    "phone": (
        ["+49 30 901820", "(415) 732-2671", "415-732-2671 x12"],
        [
            "0300 123 6789",
            "(555) 555-0142",
            "0800 700 1234",
            "900 100 200",
            "212 555 0123",
            "2026-01-31",
            "31.01.2026",
            "1234567890",
            "2019-2020",
            "111 1111",
            "12",
        ],
    ),
}

CREDENTIALS: dict[str, tuple[list[str], list[str]]] = {
    "basic_auth": (
        ["YW55OnRocmVlLWJsaW5kLW1pY2U="],
        ["dXNlcjpwYXNzd29yZA==", "bm9jb2xvbg==", "!!!!", "c2hvcDo="],
    ),
    "jwt": (
        ["eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ."],
        ["eyJhbGciOiJub25lIn0", "abc.def.ghi", "eyJzdWIiOiJib2IifQ.eyJzdWIiOiJib2IifQ.x", "WzFd.WzFd.x"],
    ),
    "not_placeholder": (
        ["{{alnum:32}}", "{{hex:40}}", "12345678-ABCD-{{HEX:20}}"],
        [
            "YOUR_KEY",
            "xxxxxxxxxxxx",
            "<token>",
            "${TOKEN}",
            "1234567890",
            "AKIAIOSFODNN7EXAMPLE",
            "aaaaaaaaaaaa",
        ],
    ),
    "seed_words": (
        ["lunar cradle oyster tissue random fabric pelican muffin sadness verify umbrella walnut"],
        [
            "lunar cradle oyster tissue random fabric",
            "we keep the twelve words that open our wallet and never type them into any website",
            "echo echo echo echo echo echo echo echo echo echo echo echo",
        ],
    ),
    "secret": (
        [
            "{{alnum:32}}",
            "{{lower:24}}",
            "{{hex:40}}",
            "{{base64url:43}}",
            "{{uplow:32}}",
            "{{digit:8}}{{lower:16}}",
        ],
        [
            "my-docker-config-secret",
            "ingress-tls-certificate",
            "https://vault.invalid/v1/secret2",
            "/run/secrets/db_password2",
            "sha256:{{hex:64}}",
            "process.env.API_KEY2",
            "$API_KEY",
            "config.yaml",
            "12345678901",
            "short1",
            "kubernetessecretbackend",
        ],
    ),
    "secret_not_id": (
        ["{{alnum:32}}", "{{lower:24}}"],
        ["{{hex:40}}", "{{hex:64}}", "{{hex:8}}-{{hex:4}}-{{hex:4}}-{{hex:4}}-{{hex:12}}"],
    ),
    "password": (
        ["{{alnum:9}}&3", "{{alnum:8}}9", "{{alnum:8}}1!", "{{uplow:9}}!horse"],
        [
            "password",
            "PASSWORD1",
            "FILE0",
            "get_password",
            "self.password2",
            "$DB_PASS1",
            "required",
            "12345678",
            "<password>",
            "hunter2",
            "v1.2.3",
            "path/to",
            "base64.b16encode",
        ],
    ),
    "url_password": (["{{alnum:8}}9", "{{lower:9}}"], ["password", "${TOKEN}", "<password>", "PASS", "xx"]),
    "three_classes": (["aB3", "a!3x", "Ab!c"], ["ab3", "AB3", "abc!"]),
}


def cases(right: bool) -> list[tuple[str, str]]:
    tables = {**NUMBERS, **CREDENTIALS}
    return [(name, value) for name, table in tables.items() for value in table[0 if right else 1]]


@pytest.mark.parametrize(("name", "value"), cases(right=True))
def test_a_right_value_passes(name: str, value: str) -> None:
    assert check_named(name)(fill(value))


@pytest.mark.parametrize(("name", "value"), cases(right=False))
def test_a_wrong_value_fails(name: str, value: str) -> None:
    assert not check_named(name)(fill(value))


@pytest.mark.parametrize("name", sorted(CHECKS))
@pytest.mark.parametrize("value", ["", " ", "-", "é" * 40, "9" * 4000, "z" * 4000, "\x00\n"])
def test_no_check_fails_on_odd_text(name: str, value: str) -> None:
    assert CHECKS[name](value) in {True, False}


@pytest.mark.parametrize("name", sorted(CHECKS))
@pytest.mark.parametrize("digit", ["²", "٣", "①", "3", "A"])
def test_no_check_fails_on_digits_of_other_scripts(name: str, digit: str) -> None:
    for length in range(1, 24):
        assert CHECKS[name](digit * length) in {True, False}
        assert CHECKS[name](("12A" + digit * length)[-18:]) in {True, False}


def test_every_checksum_has_a_right_and_a_wrong_value() -> None:
    plain = {"has_digit", "has_letter", "has_lower", "has_upper"}
    assert set(CHECKS) - plain == set(NUMBERS) | set(CREDENTIALS)


def test_measures_ask_for_more_than_their_figure() -> None:
    assert check_named("entropy>1.9")("abcd")
    assert not check_named("entropy>2")("abcd")
    assert check_named("digits>2")("a1b2c3")
    assert not check_named("length>3")("abc")
    assert check_named("randomness>0.4")(fill("{{alnum:40}}"))


@pytest.mark.parametrize("name", ["nothing", "entropy", "entropy>much", "luhn>1"])
def test_an_unknown_check_is_refused(name: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        check_named(name)


def test_entropy_counts_bits_a_character() -> None:
    assert entropy("") == 0.0
    assert entropy("aaaa") == 0.0
    assert entropy("abcd") == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["alnum", "lower", "upper", "hex", "base64", "uplow"])
def test_random_text_scores_above_words(kind: str) -> None:
    words = [
        "configuration-management-service",
        "kubernetesSecretBackend",
        "the_quick_brown_fox",
        "musllinux_1_2_aarch64",
    ]
    drawn = min(randomness(fill(f"{{{{{kind}:40}}}}" + " " * n)) for n in range(20))
    assert drawn > max(randomness(word) for word in words)
