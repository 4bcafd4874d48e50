"""Pages that change by themselves, and what one does on them, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.serial, pytest.mark.timeout(180)]

Open = Callable[..., Page]


def test_a_changed_state_is_seen_without_reloading(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/")
    expect(page.locator(".wf-conn")).to_have_attribute("data-state", "live")
    row = page.locator("tr", has_text="hellonginx")
    expect(row.locator(".wf-state")).to_have_text("Running")
    page.evaluate("window.stayed = true")
    site.order(
        "change",
        container="hellonginx",
        changes={"status": "exited", "exit_code": 3, "finished_at": 1764000000},
    )
    expect(row.locator(".wf-state")).to_have_text("Exited 3", timeout=3000)
    assert page.evaluate("window.stayed"), "the page was loaded again"


def test_an_open_list_keeps_its_order_under_the_pointer(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/?group=no&sort=state")
    names = page.locator("tbody .wf-first")
    before = names.all_text_contents()
    page.locator("tr", has_text="leafy-front-staging").hover()
    site.order("change", container="hellonginx", changes={"status": "paused"})
    expect(page.locator("tr", has_text="hellonginx").locator(".wf-state")).to_have_text(
        "Paused", timeout=3000
    )
    assert names.all_text_contents() == before


def test_a_verb_answers_with_a_toast_that_follows_the_operation(site: Any, open_page: Open) -> None:
    page = open_page(site, f"/containers/{site.container('hellonginx')}/")
    page.get_by_role("button", name="Stop", exact=True).click()
    toast = page.locator(".wf-toast")
    expect(toast).to_contain_text("Stopping hellonginx")
    operation, kind, contract = site.order("sent")[-1]
    assert kind == "container.stop"
    assert contract["container"].startswith(site.container("hellonginx"))
    site.order("end", operation=operation, status="succeeded")
    expect(toast).to_contain_text("done", timeout=3000)


def test_a_failed_operation_says_why_and_stays(site: Any, open_page: Open) -> None:
    page = open_page(site, f"/containers/{site.container('leafy-migrate')}/")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".wf-toast")).to_contain_text("Starting leafy-migrate")
    operation = site.order("sent")[-1][0]
    site.order(
        "end",
        operation=operation,
        status="failed",
        error={"code": "port_taken", "detail": "port 80 is taken", "hint": "publish another port"},
    )
    alert = page.locator(".wf-toast[role=alert]")
    expect(alert).to_contain_text("port 80 is taken", timeout=3000)
    page.wait_for_timeout(5500)
    expect(alert).to_be_visible()


def test_a_container_that_could_not_be_made_says_why_on_its_page(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/run/?image=nosuch%3A1")
    page.fill('input[name="name"]', "never-made")
    page.locator("button[form=run], form#run button[data-kind=primary]").first.click()
    page.wait_for_url(re.compile(r"/containers/(?!run)[^/]+/"))
    expect(page.locator(".wf-conn")).to_have_attribute("data-state", "live")
    site.order(
        "end",
        operation=site.order("sent")[-1][0],
        status="failed",
        error={"code": "image_not_found", "detail": "no image nosuch:1", "hint": "check its name"},
    )
    expect(page.locator("#notes")).to_contain_text("It was not made", timeout=5000)
    expect(page.locator("#notes")).to_contain_text("No image nosuch:1")
    expect(page.locator("#head .wf-state")).to_have_text("Gone")


def test_no_row_is_covered_by_the_head_of_its_table(site: Any, open_page: Open) -> None:
    page = open_page(site, f"/containers/{site.container('leafy-backend')}/processes/")
    head = page.locator("#processes thead th").first.bounding_box()
    row = page.locator("#processes tbody td").first.bounding_box()
    assert head is not None
    assert row is not None
    assert row["y"] >= head["y"] + head["height"] - 1


def test_removing_names_the_loss_and_wants_the_name_of_a_running_one(site: Any, open_page: Open) -> None:
    page = open_page(site, f"/containers/{site.container('leafy-backend')}/")
    page.get_by_label("More: kill, rename, commit, change limits, remove").click()
    page.get_by_text("Remove…", exact=True).click()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("leafy-backend is running")
    expect(dialog).to_contain_text("Volume leafy-uploads stays")
    button = dialog.get_by_role("button", name="Stop and remove")
    expect(button).to_be_disabled()
    dialog.locator("[data-type-name]").fill("leafy-backend")
    expect(button).to_be_enabled()
    button.click()
    expect(dialog).to_have_count(0)
    kind, contract = site.order("sent")[-1][1:]
    assert (kind, contract["force"], contract["volumes"]) == ("container.remove", True, False)


def test_escape_closes_a_dialog_and_gives_the_focus_back(site: Any, open_page: Open) -> None:
    page = open_page(site, "/images/")
    pull = page.get_by_role("link", name="Pull", exact=True)
    pull.click()
    dialog = page.locator("dialog[open]")
    expect(dialog.locator("input[name=reference]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(pull).to_be_focused()


def test_a_mistake_in_a_dialog_is_said_in_the_dialog(site: Any, open_page: Open) -> None:
    page = open_page(site, f"/containers/{site.container('hellonginx')}/")
    page.get_by_label("More: kill, rename, commit, change limits, remove").click()
    page.get_by_text("Rename…", exact=True).click()
    page.locator("dialog input[name=name]").fill("leafy-front")
    page.locator("dialog").get_by_role("button", name="Rename").click()
    expect(page.locator("dialog[open] [role=alert]")).to_contain_text("taken")


def test_bulk_verbs_count_the_rows_that_they_fit(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/?group=no&sort=name")
    for name in ("hellonginx", "leafy-front", "leafy-migrate"):
        page.get_by_label(f"Choose {name}", exact=True).check()
    bar = page.locator("#bulk")
    expect(bar).to_contain_text("3 chosen")
    expect(bar.locator("[data-verb=stop]")).to_contain_text("2")
    expect(bar.locator("[data-verb=start]")).to_contain_text("1")
    bar.locator("[data-verb=stop]").click()
    expect(page.locator(".wf-toast")).to_contain_text("Stopping 2 containers")
    assert [kind for _, kind, _ in site.order("sent")] == ["container.stop", "container.stop"]


def test_the_keyboard_reaches_rows_and_the_filter(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/?group=no&sort=name")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("#bulk")).to_contain_text("1 chosen")
    page.keyboard.press("Escape")
    expect(page.locator("#bulk")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("leafy-front")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.type("postgres")
    expect(page.locator("#found a").first).to_contain_text("leafy-postgres")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/containers/[0-9a-f]{12}/"))


def test_the_run_form_writes_the_equal_calls_and_runs(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/run/?image=postgres:16.4")
    expect(page.get_by_label("Port in the container")).to_have_value("5432")
    expect(page.get_by_label("At this path")).to_have_value("/var/lib/postgresql/data")
    page.get_by_label("Name", exact=False).first.fill("")
    page.locator("input[name=name]").fill("db")
    page.get_by_label("Port on the node").fill("5432")
    page.get_by_label("Value of POSTGRES_PASSWORD").fill("secret words")
    page.locator("input[name=memory]").fill("1")
    page.locator("select[name=memory_unit]").select_option("GiB")
    docker = page.locator("#call-docker")
    expect(docker).to_contain_text("--name db")
    expect(docker).to_contain_text("-p 5432:5432")
    expect(docker).to_contain_text("-e POSTGRES_PASSWORD \\")
    expect(docker).not_to_contain_text("secret words")
    expect(docker).to_contain_text("--memory 1024m")
    page.get_by_role("button", name="Run db").click()
    expect(page).to_have_url(re.compile("/containers/[0-9a-f]{12}/"))
    kind, contract = site.order("sent")[-1][1:]
    spec = contract["spec"]
    assert kind == "container.create"
    assert spec["env"] == {"POSTGRES_PASSWORD": "secret words"}
    assert spec["ports"][0]["host_port"] == 5432
    assert spec["resources"]["memory_bytes"] == 1024**3
    assert spec["mounts"][0]["target"] == "/var/lib/postgresql/data"


def test_a_mistake_keeps_what_was_typed_into_the_run_form(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/run/?image=nginx:1.27")
    page.locator("input[name=name]").fill("leafy-front")
    page.get_by_role("button", name="Only create").click()
    expect(page.locator("#problem-note")).to_contain_text("taken")
    expect(page.locator("input[name=name]")).to_have_value("leafy-front")


def test_signing_in_and_out(site: Any, open_page: Open) -> None:
    page = open_page(site, "/volumes/", user=None)
    expect(page).to_have_url(re.compile("/login/"))
    page.get_by_label("User name").fill("operator")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("[role=alert]")).to_contain_text("wrong")
    page.get_by_label("Password").fill("a long enough password")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("/volumes/$"))
    page.locator(".wf-who").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login/"))


def test_the_theme_stays_chosen(site: Any, open_page: Open) -> None:
    page = open_page(site, "/")
    page.get_by_title("Light or dark").first.click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto("/images/")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_token_is_shown_this_once(site: Any, open_page: Open) -> None:
    page = open_page(site, "/account/")
    page.get_by_role("link", name="Make a token").first.click()
    page.locator("dialog input[name=name]").fill("backup script")
    page.get_by_role("button", name="Make it").click()
    secret = page.locator("#new-token")
    expect(secret).to_contain_text("wft_")
    shown = secret.inner_text()
    page.get_by_role("link", name="I have copied it").click()
    page.goto("/account/")
    expect(page.locator("#tokens")).to_contain_text("backup script")
    assert shown not in page.content()


def test_pages_work_without_scripts(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/", scripts=False)
    expect(page.locator("tbody .wf-first")).to_have_count(11)
    page.goto(f"/containers/{site.container('hellonginx')}/")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".wf-toast")).to_contain_text("Stopping hellonginx")
    page.goto(f"/containers/{site.container('leafy-migrate')}/remove/")
    page.get_by_role("button", name="Remove").click()
    expect(page).to_have_url(re.compile("/containers/$"))
    assert site.order("sent")[-1][1] == "container.remove"


def test_a_lost_connection_is_said(site: Any, open_page: Open) -> None:
    page = open_page(site, "/containers/")
    expect(page.locator(".wf-conn")).to_have_attribute("data-state", "live")
    site.close()
    expect(page.locator(".wf-conn")).to_have_attribute("data-state", "reconnecting", timeout=5000)
    expect(page.locator(".wf-conn")).to_contain_text("Reconnecting")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/containers/",
        "/images/",
        "/builds/",
        "/volumes/",
        "/networks/",
        "/registries/",
        "/operations/",
        "/account/",
    ],
)
def test_an_empty_list_says_what_to_do_next(path: str, empty_site: Any, open_page: Open, shoot: Any) -> None:
    page = open_page(empty_site, path, user="admin")
    expect(page.locator(".wf-empty").first).to_be_visible()
    shoot(page, f"empty{path.replace('/', '-').rstrip('-') or '-overview'}")
