"""The tests of containers notice when a guard is gone (H14): each guard is taken away, and its test must turn red.

One line for each row of the list of attacks and faults; the runs are caged, so a bomb without its guard harms nobody.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

import pytest

from tests.support.cage import Cage
from tests.support.containers import FOLDERS
from tests.support.without import GUARDS

pytestmark = pytest.mark.root

DEADLINE_S = 60.0
_HERE = "tests/engine/system/test_"
_RED = re.compile(r"^FAILED \S.* - (assert|AssertionError|Failed: DID NOT RAISE)", re.M)
_UNUSED = (
    "django",
    "hypothesispytest",
    "xdist",
    "asyncio",
    "anyio",
)  # plugins that tests of the engine do without
_QUICK = [word for name in _UNUSED for word in ("-p", f"no:{name}")] + [
    "-W",
    "ignore::pytest.PytestConfigWarning",
]
_SETTINGS = ("-q", "-rf", "--tb=line", "-p", "tests.support.without", "-p", "no:cacheprovider")


class Proof(NamedTuple):
    """A row of the list, the guard that answers it, and the test that would be red without the guard."""

    row: str
    guard: str
    test: str


PROOFS = [
    Proof("RT-01", "no kernel folder as working directory", "containers_streams.py::test_working_directories_of_the_kernel_are_refused[/sys]"),
    Proof("RT-02", "runtime out of sight", "containers_security.py::test_the_runtimes_programs_are_not_written"),
    Proof("RT-03", "no mount on kernel folders", "containers_config.py::test_mounts_on_the_kernels_places_are_refused[/proc]"),
    Proof("RT-03", "masked paths", "containers_security.py::test_masked_paths_are_empty_and_the_kernel_is_not_written"),
    Proof("RT-04", "seccomp", "containers_security.py::test_forbidden_system_calls_are_refused_everywhere"),
    Proof("RT-05", "few capabilities", "containers_security.py::test_capabilities_are_the_documented_set"),
    Proof("RT-06", "highest user number", "containers_security.py::test_users_that_do_not_fit_are_refused[4294967296]"),
    Proof("RT-06", "digits are numbers", "containers_security.py::test_digits_are_never_a_name"),
    Proof("RT-07", "rights in the service", "tests/webapp/test_policy.py::test_operators_need_the_right_and_admins_have_it[{'privileged': True}]"),
    Proof("RT-07", "rights on the node", "tests/workers/test_runner.py::test_a_right_that_was_not_granted_is_refused_on_the_node_too"),
    Proof("RT-08", "allowed bind roots", "volumes.py::test_path_outside_the_allowed_roots_is_denied[/root]"),
    Proof("RT-08", "bind sources without links", "volumes.py::test_way_through_a_link_or_upwards_is_denied[link]"),
    Proof("RT-09", "own ids", "containers_security.py::test_control_groups_cannot_be_written"),
    Proof("RT-11", "closed sockets", "containers_security.py::test_our_sockets_are_files_in_closed_folders"),
    Proof("RT-12", "firewall before the machine", "network_traffic.py::test_container_reaches_nothing_of_the_machine_itself"),
    Proof("RT-12", "firewall before the cloud", "network_traffic.py::test_secrets_of_a_cloud_are_out_of_reach"),
    Proof("RT-14", "labels are no annotations", "containers_security.py::test_labels_and_annotations_steer_nothing"),
    Proof("RT-19", "closed folders", "containers_files.py::test_the_store_is_closed_to_everybody_else"),
    Proof("D15", "own ids", "containers_security.py::test_root_inside_is_nobody_outside"),
    Proof("AR-13", "paths are resolved inside", "extract_race.py::test_opening_a_path_while_a_directory_is_swapped[link]"),
    Proof("AR-13", "paths are resolved inside", "containers_files.py::test_a_container_that_swaps_folder_and_link_gains_nothing"),
    Proof("AR-14", "unpacking before the root is entered", "containers_files.py::test_nothing_of_the_container_is_executed"),
    Proof("AR-15", "working directories are made inside", "containers_files.py::test_the_engines_own_files_are_written_inside_only"),
    Proof("AR-16", "small regular files only", "containers_files.py::test_foreign_passwd_files_do_no_harm[link]"),
    Proof("AR-17", "shape of the root", "containers_files.py::test_strange_roots_are_refused[etc is a link]"),
    Proof("DS-01", "limit of processes", "containers_config.py::test_a_fork_bomb_is_held"),
    Proof("DS-02", "limit of memory", "containers_config.py::test_running_out_of_memory_is_recorded[its own memory]"),
    Proof("DS-03", "limit of the log", "containers_streams.py::test_a_log_flood_is_bounded_on_disk"),
    Proof("DS-04", "watch over the disk", "containers_disk.py::test_a_container_that_fills_the_disk_is_paused[/root]"),
    Proof("DS-05", "bounded ring", "containers_streams.py::test_a_viewer_that_never_reads_does_not_stall_the_container"),
    Proof("F-09", "reconciling", "containers_faults.py::test_a_killed_monitor_is_noticed_and_nothing_stays"),
    Proof("F-28", "ownership by mark", "containers_faults.py::test_foreign_things_are_never_swept"),
]  # fmt: skip
ROWS = {
    *(f"RT-{number:02}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 19)),
    *(f"AR-{number}" for number in (13, 14, 15, 16, 17)),
    *(f"DS-{number:02}" for number in (1, 2, 3, 4, 5)),
}


def test_every_row_and_every_guard_has_its_proof() -> None:
    assert {proof.row for proof in PROOFS} >= ROWS
    assert {proof.guard for proof in PROOFS} == set(GUARDS)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: f"{proof.row} {proof.guard}")
def test_without_its_guard_a_test_is_red(proof: Proof) -> None:
    cage = Cage()
    of_the_engine = not proof.test.startswith("tests/")
    test, less = (_HERE + proof.test, _QUICK) if of_the_engine else (proof.test, [])
    base = FOLDERS / f"wf-test-{cage.instance}-pytest"
    done = cage.run(
        [sys.executable, "-m", "pytest", *_SETTINGS, *less, f"--basetemp={base}", test],
        environment={"WHARFINGER_WITHOUT": proof.guard, "COLUMNS": "400"},
        timeout_s=DEADLINE_S,
    )
    assert done.returncode == 1, done.stdout[-2000:]
    assert _RED.search(done.stdout), done.stdout[-2000:]
