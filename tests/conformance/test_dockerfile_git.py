"""Which addresses name a git repository, against BuildKit's table."""

from __future__ import annotations

from typing import Any

import pytest

from engine.build.gitref import BadGitReference, GitReference, parse_git_reference
from tests.support.vectors import load_vectors

CASES = load_vectors("buildkit-dockerfile", "git_ref.json")
FIELDS = {
    "Remote": "remote",
    "ShortName": "short_name",
    "Ref": "ref",
    "SubDir": "subdir",
    "Checksum": "checksum",
    "IndistinguishableFromLocal": "local_looking",
    "UnencryptedTCP": "unencrypted",
    "MTime": "mtime",
    "FetchByCommit": "fetch_by_commit",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["ref"])
def test_an_address_is_read_the_same_way(case: dict[str, Any]) -> None:
    if "err" in case:
        with pytest.raises(BadGitReference) as caught:
            parse_git_reference(case["ref"])
        assert case["err"] in caught.value.message
    elif case["expected"] is None:
        assert parse_git_reference(case["ref"]) is None
    else:
        expected = GitReference(**{FIELDS[name]: value for name, value in case["expected"].items()})
        assert parse_git_reference(case["ref"]) == expected
