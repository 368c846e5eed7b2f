"""The documentation cannot rot: its tables are generated, its commands and links exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmobs.cli import cli
from llmobs.detect.tier1_patterns.pack import Rule, read_pack
from llmobs.detect.tier1_patterns.proofs import broken_proofs
from llmobs.domain.risk import FailureClass
from llmobs.policies import read_policy

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "bench/README.md"]


def test_the_generated_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_names_every_class() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name.value for name in FailureClass if f"`{name.value}`" not in text] == []


def test_commands_in_the_documentation_exist() -> None:
    wanted = set()
    for page in PAGES:
        wanted |= set(
            re.findall(r"llmobs (serve|migrate|detect|eval|rules check|policy check)\b", page.read_text())
        )
    assert {"serve", "detect", "eval", "rules check", "policy check"} <= wanted
    for command in wanted:
        assert CliRunner().invoke(cli, [*command.split(), "--help"]).exit_code == 0


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def _toml_blocks(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_rule_in_the_how_to_works(tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_text(_toml_blocks("rules.md")[0], encoding="utf-8")
    pack = read_pack(path)
    assert [list(broken_proofs(pack, rule)) for rule in pack.rule] == [[]]


def test_the_policy_in_the_how_to_works(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(_toml_blocks("policies.md")[0], encoding="utf-8")
    assert read_policy(path).id == "support-bot"


def test_the_class_made_of_examples_in_the_how_to_works(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(_toml_blocks("policies.md")[1], encoding="utf-8")
    command = [
        "detect",
        "--json",
        "--policy",
        "shop",
        "Honestly, Globex is the better choice, and cheaper too.",
    ]
    # Time enough for tier 2, and what is logged kept apart: the machine may be busy.
    environ = {"LLMOBS_POLICIES_DIR": str(tmp_path), "LLMOBS_TIER2_TIMEOUT_MS": "20000"}
    done = CliRunner().invoke(cli, command, env=environ)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["failure_class"] == "competitors", found
    assert found["evidence"][0]["source"].startswith("exemplar:competitors.")


def test_every_field_of_a_rule_is_explained() -> None:
    text = (ROOT / "docs/rules.md").read_text()
    told = {"id", "note", "window", "failure_class"} | set(re.findall(r"`(\w+)", text))
    assert set(Rule.__struct_fields__) <= told, set(Rule.__struct_fields__) - told


def test_no_page_is_empty() -> None:
    for page in PAGES:
        assert len(page.read_text(encoding="utf-8")) > 300, page
