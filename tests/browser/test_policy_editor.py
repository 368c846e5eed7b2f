"""A policy is edited in a real browser: form and text, its dry runs, in force, and what is refused."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service import Service

from .conftest import Watched
from .test_ui import ATTACK, post, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Open = Callable[..., Watched]
HOUSE = """# ours
id = "house"
version = 1
description = "What the house allows."
[classes.prompt_injection]
severity = "high"
warn = 0.5
block = 0.99999
[classes.toxicity]
severity = "medium"
warn = 0.5
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("editor")
    (folder / "policies").mkdir()
    (folder / "policies" / "house.toml").write_text(HOUSE)
    made = Service(
        folder,
        f"sqlite:///{folder / 'l.db'}",
        {"LLMOBS_SNAPSHOT_SECONDS": "0", "LLMOBS_POLICIES_DIR": str(folder / "policies")},
    )
    try:
        made.start("--migrate")
        texts = [f"{ATTACK} {n}" for n in range(12)] + [f"The library opens at {n}." for n in range(8)]
        post(made, *[{"llm_response": text, "policy": "house"} for text in texts])
        yield made
    finally:
        made.kill()


def edit(watched: Watched) -> Any:
    watched.goto("#/policies")
    page = watched.page
    page.get_by_label("Policy", exact=True).select_option("house")
    page.get_by_role("button", name="Edit this policy").click()
    page.get_by_role("heading", name="Edit house").wait_for()
    return page


def labelled(*rows: tuple[str, int, str], task: str = "prompt_injection") -> dict[str, Any]:
    """A file for the page: rows of id, label and text."""
    told = [
        {"id": name, "task": task, "label": label, "role": "response", "text": text}
        for name, label, text in rows
    ]
    content = "".join(json.dumps(one) + "\n" for one in told).encode()
    return {"name": "mine.jsonl", "mimeType": "application/x-ndjson", "buffer": content}


TRUTHS = labelled(
    *((f"attack-{n}", 1, f"{ATTACK} {n}") for n in range(4)),
    ("a-very-long-id-of-a-text-that-nobody-would-give-it-" * 3, 1, "The vault opens at nine."),
    *((f"fine-{n}", 0, f"The library opens at {n}.") for n in range(5)),
)


@pytest.mark.parametrize("width", [1100, 360])
def test_a_policy_is_tried_on_a_labelled_file(opened: Open, service: Service, width: int) -> None:
    watched = opened(viewport={"width": width, "height": 740})
    page = edit(watched)
    button = page.get_by_role("button", name="Try on the labelled file")
    assert button.is_disabled()  # no file is chosen
    chooser = page.get_by_label("Labelled file (JSON lines)")
    chooser.set_input_files(labelled(("odd", 7, "Hello.")))
    button.click()
    page.get_by_role("alert").wait_for()
    assert "Line 1: label is 1 or 0." in page.get_by_role("alert").inner_text()
    watched.console.clear()  # Chromium itself notes the 422
    put = page.get_by_role("button", name="Put in force")
    assert put.is_disabled()  # it was not tried
    page.get_by_label("Block from: prompt injection").fill("0.6")
    chooser.set_input_files(TRUTHS)
    button.press("Enter")
    page.get_by_text("4 of 10 texts would get another action.").wait_for()
    task = page.locator("table.task")
    shown = [" ".join(line.split()) for line in task.locator("tr").all_inner_texts()]
    assert "prompt injection: 5 positives, 5 negatives" in task.inner_text()
    assert shown == [
        "Texts In force Tried",
        "Positives flagged (recall) 4 of 5 80.0 % (37.5 to 96.4) 4 of 5 80.0 % (37.5 to 96.4)",
        "Positives blocked 0 of 5 4 of 5",
        "Negatives flagged (false alarms) 0 of 5 0.0 % (0.0 to 43.5) 0 of 5 0.0 % (0.0 to 43.5)",
        "Negatives blocked 0 of 5 0 of 5",
    ]
    changes = page.locator("table.tried tbody tr")
    assert [" ".join(line.split()) for line in changes.all_inner_texts()] == [
        f"attack-{n} Warn Block positive prompt injection prompt injection" for n in range(4)
    ]
    assert put.is_enabled()
    until(page, f"() => document.documentElement.scrollWidth <= {width}")
    assert task.evaluate("table => table.parentElement.scrollWidth <= table.parentElement.clientWidth")
    shots = os.environ.get("LLMOBS_TEST_SHOTS")
    if shots:
        page.locator(".editor").screenshot(path=f"{shots}/labelled-{width}.png")
    page.get_by_label("Warn from: prompt injection").fill("0.4")
    assert put.is_disabled()  # what is put in force is what was tried


def test_a_policy_is_edited_tried_and_put_in_force(opened: Open, service: Service) -> None:
    watched = opened()
    page = edit(watched)
    put = page.get_by_role("button", name="Put in force")
    assert put.is_disabled()  # not before it was tried
    page.get_by_label("Block from: prompt injection").fill("0.6")
    page.get_by_role("button", name="Try on recorded verdicts").click()
    page.get_by_text("12 of 20 verdicts would change.").wait_for()
    shown = page.locator("table", has_text="Actions before and after").inner_text()
    assert "Warn\t12\t0\t−12" in shown
    assert "Block\t0\t12\t+12" in shown
    assert page.locator("table.tried tbody tr").count() == 12
    shots = os.environ.get("LLMOBS_TEST_SHOTS")
    if shots:
        page.screenshot(path=f"{shots}/editor.png", full_page=True)
    assert put.is_enabled()
    page.get_by_label("Warn from: prompt injection").fill("0.4")
    assert put.is_disabled()  # what is put in force is what was tried
    page.get_by_role("button", name="Try on recorded verdicts").click()
    page.get_by_text("12 of 20 verdicts would change.").wait_for()
    put.click()
    page.get_by_text("Version 2 of house is in force.").wait_for()
    (made,) = post(service, {"llm_response": ATTACK + " now", "policy": "house"})
    assert (made["action"], made["policy"]["version"]) == ("block", 2)
    folder = Path(service.environ["LLMOBS_POLICIES_DIR"])
    assert (folder / "history" / "house.1.toml").read_text() == HOUSE


def test_form_and_text_say_the_same(opened: Open, service: Service) -> None:
    page = edit(opened())
    page.get_by_label("Warn from: toxicity").fill("0.25")
    page.get_by_label("Text (TOML)", exact=True).first.check()
    text = page.locator("textarea")
    text.wait_for()
    assert "warn = 0.25" in text.input_value()
    text.fill(text.input_value().replace("warn = 0.25", "warn = 0.35"))
    page.get_by_label("Form", exact=True).check()
    page.get_by_label("Warn from: toxicity").wait_for()
    assert page.get_by_label("Warn from: toxicity").input_value() == "0.35"


def test_an_unsound_policy_is_told_with_its_reason(opened: Open, service: Service) -> None:
    watched = opened()
    page = edit(watched)
    page.get_by_label("Warn from: toxicity").fill("1.5")
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_role("alert").wait_for()
    assert "class toxicity: warn = 1.5 lies outside 0 to 1" in page.get_by_role("alert").inner_text()
    page.get_by_label("Warn from: toxicity").fill("0.5")
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_text("The policy is sound.").wait_for()
    watched.console.clear()  # Chromium itself notes the 422


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["Form", "Text (TOML)"])
def test_the_editor_is_accessible(opened: Open, service: Service, scheme: str, view: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python"
    )
    page = edit(opened(color_scheme=scheme))
    page.get_by_label(view, exact=True).first.check()
    page.get_by_role("button", name="Try on recorded verdicts").click()
    page.locator(".outcome-of-try").wait_for()
    for once_more in (False, True):
        if once_more:
            page.get_by_label("Labelled file (JSON lines)").set_input_files(TRUTHS)
            page.get_by_role("button", name="Try on the labelled file").click()
            page.locator("table.task").wait_for()
        found = axe.Axe().run(page).response
        assert found["passes"]
        faults = [
            f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found["violations"]
            if one["impact"] in {"serious", "critical", "moderate"}
        ]
        assert faults == []


def test_the_editor_fits_a_narrow_screen(opened: Open, service: Service) -> None:
    page = edit(opened(viewport={"width": 360, "height": 740}))
    page.get_by_role("button", name="Try on recorded verdicts").click()
    page.locator(".outcome-of-try").wait_for()
    until(page, "() => document.documentElement.scrollWidth <= 360")
