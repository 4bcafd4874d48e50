"""The shapes of answers, for the OpenAPI document. A test compares them with what the selectors really give."""

from __future__ import annotations

from webapp.api.docs import (
    ANY,
    FLAG,
    MAYBE_MOMENT,
    MAYBE_NUMBER,
    MAYBE_TEXT,
    MOMENT,
    NUMBER,
    OPERATION_BRIEF,
    TEXT,
    WORDS,
    many,
    shape,
)

OPERATION = shape(
    **OPERATION_BRIEF["properties"],
    node=TEXT,
    target=shape(type=TEXT, id=TEXT, name=TEXT),
    user=TEXT,
    face=TEXT,
    created_at=MOMENT,
    started_at=MAYBE_MOMENT,
    finished_at=MAYBE_MOMENT,
    cancel_requested=FLAG,
    can_cancel=FLAG,
    can_retry=FLAG,
    retry_of=TEXT,
    progress=ANY,
    error={**ANY, "nullable": True},
    result=ANY,
)
CONTAINER = shape(
    id=TEXT,
    name=TEXT,
    node=TEXT,
    image=TEXT,
    image_id=TEXT,
    status={
        "type": "string",
        "enum": ["creating", "created", "running", "paused", "restarting", "exited", "removing", "dead"],
    },
    health=MAYBE_TEXT,
    exit_code=MAYBE_NUMBER,
    oom_killed=FLAG,
    error=TEXT,
    restart_count=NUMBER,
    created_at=MOMENT,
    started_at=MAYBE_MOMENT,
    finished_at=MAYBE_MOMENT,
    confirmed_at=MAYBE_MOMENT,
    created_by=MAYBE_TEXT,
    project=MAYBE_TEXT,
    service=MAYBE_TEXT,
    command=TEXT,
    ports=many(shape(container_port=NUMBER, protocol=TEXT, host_ip=TEXT, host_port=NUMBER)),
    networks=many(shape(id=TEXT, name=TEXT, ipv4_address=TEXT)),
    mounts=many(shape(type=TEXT, source=TEXT, target=TEXT, read_only=FLAG)),
    labels=WORDS,
    restart=TEXT,
    tty=FLAG,
)
KEPT_LOG = shape(id=TEXT, name=TEXT, image=TEXT, node=TEXT, removed_at=TEXT, size_bytes=NUMBER)
CONTAINER_DETAIL = shape(**CONTAINER["properties"], actions=many(TEXT), record=ANY)
IMAGE = shape(
    id=TEXT,
    names=many(TEXT),
    repo_digests=many(TEXT),
    node=TEXT,
    size_bytes=NUMBER,
    created_at=MOMENT,
    added_at=MOMENT,
    confirmed_at=MAYBE_MOMENT,
    platform=TEXT,
    labels=WORDS,
    layers=NUMBER,
    containers=NUMBER,
)
PROTECTED_NAME = shape(pattern=TEXT, full_pattern=TEXT, note=TEXT, created_at=MOMENT, created_by=MAYBE_TEXT)
IMAGE_DETAIL = shape(**IMAGE["properties"], record=ANY)
BUILD = shape(
    id=TEXT,
    status=TEXT,
    node=TEXT,
    tags=many(TEXT),
    target=TEXT,
    image_id=MAYBE_TEXT,
    size_bytes=MAYBE_NUMBER,
    context_size_bytes=NUMBER,
    user=TEXT,
    created_at=MOMENT,
    started_at=MAYBE_MOMENT,
    finished_at=MAYBE_MOMENT,
    error={**ANY, "nullable": True},
    operation=OPERATION_BRIEF,
)
BUILD_DETAIL = shape(
    **BUILD["properties"],
    dockerfile=TEXT,
    dockerfile_path=TEXT,
    build_args=WORDS,
    labels=WORDS,
    no_cache=FLAG,
    plan=many(ANY),
    steps=many(ANY),
    advice=many(ANY),
)
NETWORK = shape(
    id=TEXT,
    name=TEXT,
    node=TEXT,
    driver=TEXT,
    subnet=TEXT,
    gateway=TEXT,
    internal=FLAG,
    ipv6=FLAG,
    labels=WORDS,
    project=MAYBE_TEXT,
    members=NUMBER,
    created_at=MOMENT,
    created_by=MAYBE_TEXT,
    confirmed_at=MAYBE_MOMENT,
    built_in=FLAG,
)
NETWORK_DETAIL = shape(**NETWORK["properties"], containers=many(ANY), record=ANY)
VOLUME = shape(
    name=TEXT,
    node=TEXT,
    driver=TEXT,
    anonymous=FLAG,
    labels=WORDS,
    project=MAYBE_TEXT,
    size_bytes=MAYBE_NUMBER,
    measured_at=MAYBE_MOMENT,
    used_at=MAYBE_MOMENT,
    users=NUMBER,
    backed_up_at=MAYBE_MOMENT,
    created_at=MOMENT,
    created_by=MAYBE_TEXT,
    confirmed_at=MAYBE_MOMENT,
)
BACKUP = shape(
    id=TEXT,
    volume=TEXT,
    node=TEXT,
    status=TEXT,
    proven=FLAG,
    size_bytes=NUMBER,
    content_bytes=NUMBER,
    entries=NUMBER,
    digest=TEXT,
    compression=TEXT,
    created_at=MOMENT,
    operation=TEXT,
    schedule=MAYBE_NUMBER,
)
SCHEDULE = shape(
    id=NUMBER,
    every_hours=NUMBER,
    keep=NUMBER,
    keep_daily=NUMBER,
    keep_weekly=NUMBER,
    keep_monthly=NUMBER,
    compression=TEXT,
    is_enabled=FLAG,
    next_at=MOMENT,
)
VOLUME_DETAIL = shape(
    **VOLUME["properties"], containers=many(ANY), backups=many(BACKUP), schedules=many(SCHEDULE), record=ANY
)
USER = shape(
    username=TEXT,
    display_name=TEXT,
    role=TEXT,
    rights=shape(host_mounts=FLAG, privileged=FLAG, host_namespaces=FLAG, devices=FLAG),
    is_active=FLAG,
    unix_uid=MAYBE_NUMBER,
    created_at=MOMENT,
    last_sign_in_at=MAYBE_MOMENT,
)
TOKEN = shape(
    id=NUMBER,
    user=TEXT,
    name=TEXT,
    kind=TEXT,
    scope=TEXT,
    hint=TEXT,
    fingerprint=MAYBE_TEXT,
    created_at=MOMENT,
    expires_at=MAYBE_MOMENT,
    last_used_at=MAYBE_MOMENT,
    revoked_at=MAYBE_MOMENT,
    is_valid=FLAG,
)
REGISTRY = shape(
    host=TEXT,
    username=TEXT,
    has_secret=FLAG,
    secret_kind=TEXT,
    usable_by=TEXT,
    insecure=FLAG,
    has_ca=FLAG,
    created_at=MOMENT,
    updated_at=MOMENT,
    used_at=MAYBE_MOMENT,
    created_by=MAYBE_TEXT,
)
NODE = shape(
    name=TEXT,
    is_default=FLAG,
    is_enabled=FLAG,
    is_online=FLAG,
    seen_at=MAYBE_MOMENT,
    confirmed_at=MAYBE_MOMENT,
    created_at=MOMENT,
    info=ANY,
)
EVENT = shape(
    id=NUMBER, node=TEXT, seq=NUMBER, at=MOMENT, type=TEXT, action=TEXT, subject=TEXT, attributes=ANY
)
ENTRY = shape(
    seq=NUMBER,
    at=MOMENT,
    actor=TEXT,
    token=TEXT,
    address=TEXT,
    face=TEXT,
    action=TEXT,
    target_type=TEXT,
    target_id=TEXT,
    target=TEXT,
    node=TEXT,
    outcome=TEXT,
    operation=TEXT,
    detail=TEXT,
    body=ANY,
    previous=TEXT,
    hash=TEXT,
)
VERIFICATION = shape(ok=FLAG, entries=NUMBER, head=TEXT, broken_at=MAYBE_NUMBER, reason=TEXT)
