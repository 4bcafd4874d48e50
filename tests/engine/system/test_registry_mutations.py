"""H14: the tests of the rows RG-01 to RG-06 and RG-10 are worth something: each turns red once its guard is taken away.

A mutation replaces one guard; the row's own test, or a scenario below, then has to fail with an assertion, a missing
refusal or another error of the engine than the one it demands. Any other exception is a mutation that no longer fits the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from engine.content.store import BlobWriter
from engine.digest import Digest, digest_bytes
from engine.errors import EngineError
from engine.images.protection import Protection
from engine.oci import descriptor as oci_descriptor
from engine.oci import manifest as oci_manifest
from engine.oci import strict_json
from engine.registry import auth, blobs, client, transport
from engine.registry.auth import Authenticator
from engine.registry.exchange import Response
from engine.registry.settings import RegistrySettings, Trust
from engine.registry.transport import Transport
from tests.engine.system import test_protected_names as protected
from tests.engine.system import test_pull_faults as faults
from tests.engine.system import test_push as pushes
from tests.engine.unit import test_registry_auth as accounts
from tests.support.certificates import ThrowawayCA
from tests.support.fake_registry import FakeRegistry, reply
from tests.support.image_node import ImageNode, image_node
from tests.support.stores import add_image, open_stores

pytestmark = pytest.mark.root

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Site:
    """What a row's test works with."""

    node: ImageNode
    registry: FakeRegistry
    folder: Path


@dataclass(frozen=True)
class Mutation:
    """One guard of a row taken away, and the test that has to notice."""

    row: str
    name: str
    remove: Callable[[Patch], None]
    test: Callable[[Site], object]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with FakeRegistry(auth="bearer") as registry:
        yield Site(image_node(tmp_path / "node"), registry, tmp_path)


# --- scenarios where the row's assertion needs a closer look than its test has ------------------------------------


class Counting:
    """A sink that only counts."""

    def __init__(self) -> None:
        self.offset = 0

    def write(self, data: bytes) -> int:
        self.offset += len(data)
        return len(data)

    def restart(self) -> None:
        self.offset = 0


def nothing_beyond_the_size(site: Site) -> None:
    made = faults.add(site.registry)
    digest = Digest(made.layer_digests[0])
    data = site.registry.blobs[digest]
    site.registry.on("GET", digest, reply(200, data + b"more"), times=9)
    sink = Counting()
    with FakeRegistry() as plain:
        plain.linked, plain.blobs = site.registry.linked, site.registry.blobs
        plain.on("GET", digest, reply(200, data + b"more"), times=9)
        opened = accounts.registries().open(plain.domain)
        with opened, pytest.raises(EngineError):
            blobs.download(opened, "team/app", digest=digest, size=len(data), sink=sink)
    assert sink.offset <= len(data)


def no_path_is_made_of_a_malformed_digest(site: Site) -> None:
    def spoil(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["digest"] = "sha256:../../x"

    faults.add(site.registry, change=spoil)
    with pytest.raises(EngineError):
        faults.pull(site.node, site.registry)
    assert site.registry.count("GET", r"/blobs/") == 0


def a_realm_on_a_private_address_is_never_asked(site: Site) -> None:
    authority = ThrowawayCA(site.folder)
    names = authority.issue("127.0.0.1", "127.0.0.2")
    with (
        FakeRegistry(host="127.0.0.2", tls=names) as other,
        FakeRegistry(tls=names, auth="bearer") as registry,
        pytest.MonkeyPatch.context() as patch,
    ):
        # the throw-away authority is believed everywhere, so that only the address speaks against the realm
        patch.setenv("SSL_CERT_FILE", str(authority.file))
        accounts.image(registry)
        registry.realm = f"{other.url}/token"
        settings = RegistrySettings(registry.domain, ca_pem=authority.pem, credentials=accounts.ALICE)
        with pytest.raises(EngineError):
            accounts.read(accounts.registries(insecure=()).open(registry.domain, settings=settings))
        assert other.requests == []


def an_ambiguous_manifest(name: str) -> Callable[[Site], None]:
    return lambda site: faults.test_an_ambiguous_or_malformed_manifest_is_refused(
        site.node, site.registry, name
    )


def a_protected_name(door: Callable[..., None]) -> Callable[[Site], None]:
    def scenario(site: Site) -> None:
        stores = open_stores(site.folder / "home")
        add_image(stores, protected.OLD, name="team/app:1")
        stores.images.protection.replace([protected.FULL], 1)
        protected.test_a_protected_name_stays_where_it_is(stores, site.folder, door)

    return scenario


# --- guards, and how they are taken away --------------------------------------------------------------------------


def blobs_are_not_compared(patch: Patch) -> None:
    commit = BlobWriter.commit

    def unchecked(self: BlobWriter, *arguments: Any, **more: Any) -> Any:
        self._expected = None
        return commit(self, *arguments, **more)

    patch.setattr(BlobWriter, "commit", unchecked)


def manifests_are_not_compared(patch: Patch) -> None:
    patch.setattr(client, "digest_bytes", lambda data: digest_bytes(data.rstrip()))


def whatever_comes_is_taken(patch: Patch) -> None:
    def copy(response: Response, size: int, sink: blobs.Sink, domain: str, digest: Digest) -> None:
        for chunk in response.chunks(1 << 40):
            sink.write(chunk)

    patch.setattr(blobs, "_copy", copy)


def digests_are_any_text(patch: Patch) -> None:
    patch.setattr(oci_descriptor, "parse_digest", Digest)


def documents_may_be_both(patch: Patch) -> None:
    patch.setattr(oci_manifest, "_kind", lambda fields, announced: announced or oci_manifest.mt.OCI_MANIFEST)


def keys_may_come_twice(patch: Patch) -> None:
    patch.setattr(strict_json, "_unique", dict)


def realms_are_believed(patch: Patch) -> None:
    patch.setattr(auth, "checked_url", lambda base, location, whose, *, absolute=False: location)


def addresses_are_not_judged(patch: Patch) -> None:
    patch.setattr(Trust, "refuses", lambda self, origin, address: "")


def tokens_are_everybodys(patch: Patch) -> None:
    key = Authenticator._key

    def same(self: Authenticator, scopes: auth.Scopes) -> auth._Key:
        return auth._Key(key(self, scopes).origin, "somebody", ())

    patch.setattr(Authenticator, "_key", same)


def secrets_go_everywhere(patch: Patch) -> None:
    exchange = Transport._exchange

    def with_secret(self: Transport, request: Any, url: str, authorization: str | None) -> Any:
        return exchange(self, request, url, authorization or self._auth.header(request.scopes))

    patch.setattr(Transport, "_exchange", with_secret)


def redirects_are_followed_blindly(patch: Patch) -> None:
    patch.setattr(transport, "checked_url", lambda base, location, whose: urljoin(base, location))


def names_are_not_protected(patch: Patch) -> None:
    patch.setattr(Protection, "refuse", lambda self, connection, names, *, what: None)


MUTATIONS = [
    Mutation("RG-01", "layer", blobs_are_not_compared, lambda s: faults.test_wrong_bytes_are_refused_after_one_more_try(s.node, s.registry, "layer")),
    Mutation("RG-01", "config", blobs_are_not_compared, lambda s: faults.test_wrong_bytes_are_refused_after_one_more_try(s.node, s.registry, "config")),
    Mutation("RG-01", "manifest", manifests_are_not_compared, lambda s: faults.test_a_wrong_manifest_is_refused(s.node, s.registry)),
    Mutation("RG-02", "too long", whatever_comes_is_taken, nothing_beyond_the_size),
    Mutation("RG-03", "digest syntax", digests_are_any_text, no_path_is_made_of_a_malformed_digest),
    Mutation("RG-04", "both", documents_may_be_both, an_ambiguous_manifest("layers and manifests both")),
    Mutation("RG-04", "twice the same key", keys_may_come_twice, an_ambiguous_manifest("twice the same key")),
    Mutation("RG-05", "plain realm", realms_are_believed, lambda s: accounts.test_a_plain_realm_of_a_tls_registry_is_never_asked(s.folder)),
    Mutation("RG-05", "private realm", addresses_are_not_judged, a_realm_on_a_private_address_is_never_asked),
    Mutation("RG-05", "token cache", tokens_are_everybodys, lambda s: accounts.test_a_token_serves_one_account_only()),
    Mutation("RG-06", "redirect", secrets_go_everywhere, lambda s: accounts.test_a_redirect_elsewhere_is_followed_without_the_secret(307)),
    Mutation("RG-06", "scheme", redirects_are_followed_blindly, lambda s: accounts.test_a_redirect_from_tls_to_plain_http_is_refused(s.folder)),
    Mutation("RG-06", "upload", secrets_go_everywhere, lambda s: pushes.test_an_upload_location_elsewhere_sees_no_secret(s.node)),
    Mutation("RG-06", "blob", secrets_go_everywhere, lambda s: faults.test_a_blob_on_another_host_comes_without_the_secret(s.node, s.registry)),
    Mutation("RG-10", "load", names_are_not_protected, a_protected_name(protected.by_load)),
    Mutation("RG-10", "removal", names_are_not_protected, a_protected_name(protected.by_removal)),
]  # fmt: skip
RED = (AssertionError, EngineError, pytest.fail.Exception)


def named(mutation: Mutation) -> str:
    return f"{mutation.row} {mutation.name}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=named)
def test_the_row_is_green_with_its_guard(site: Site, mutation: Mutation) -> None:
    assert mutation.test(site) is None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=named)
def test_the_row_is_red_without_its_guard(site: Site, mutation: Mutation, monkeypatch: Patch) -> None:
    mutation.remove(monkeypatch)
    with pytest.raises(RED):
        mutation.test(site)


def test_every_rank_0_row_of_registries_has_a_mutation() -> None:
    assert {f"RG-0{number}" for number in range(1, 7)} <= {mutation.row for mutation in MUTATIONS}
