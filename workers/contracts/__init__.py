"""What web and nodes say to each other: data and its meaning, standard library only.

`base` explains a contract, `envelope` how it travels, `events` what comes back, `queries` and `streams` what passes beside Celery,
`policy` which risky rights a request needs.
"""

from workers.contracts.base import BULK, QUICK, Contract, all_kinds, contract_of
from workers.contracts.builds import BuildCachePrune, BuildRun
from workers.contracts.containers import (
    ContainerCommit,
    ContainerCreate,
    ContainerExec,
    ContainerFilesPut,
    ContainerKill,
    ContainerPause,
    ContainerPrune,
    ContainerRemove,
    ContainerRename,
    ContainerRestart,
    ContainerStart,
    ContainerStop,
    ContainerUnpause,
    ContainerUpdate,
    KeptLogRemove,
)
from workers.contracts.events import Heartbeat, NodeEvent, Outcome
from workers.contracts.images import (
    ImageImport,
    ImageLoad,
    ImagePrune,
    ImagePull,
    ImagePush,
    ImageRemove,
    ImageSave,
    ImageTag,
    ImageUntag,
    NamesProtect,
    RegistryAccess,
)
from workers.contracts.networks import (
    NetworkConnect,
    NetworkCreate,
    NetworkDisconnect,
    NetworkPrune,
    NetworkRemove,
    Subnet,
)
from workers.contracts.problems import NodeError, NodeSilent, Problem
from workers.contracts.signing import BadSignature, NodeKey
from workers.contracts.system import SystemCheck, SystemPrune, SystemRepair
from workers.contracts.values import ContractError
from workers.contracts.volumes import (
    BackupRemove,
    VolumeBackup,
    VolumeCreate,
    VolumePrune,
    VolumeRemove,
    VolumeRestore,
)

__all__ = [
    "BULK",
    "QUICK",
    "BackupRemove",
    "BadSignature",
    "BuildCachePrune",
    "BuildRun",
    "ContainerCommit",
    "ContainerCreate",
    "ContainerExec",
    "ContainerFilesPut",
    "ContainerKill",
    "ContainerPause",
    "ContainerPrune",
    "ContainerRemove",
    "ContainerRename",
    "ContainerRestart",
    "ContainerStart",
    "ContainerStop",
    "ContainerUnpause",
    "ContainerUpdate",
    "Contract",
    "ContractError",
    "Heartbeat",
    "ImageImport",
    "ImageLoad",
    "ImagePrune",
    "ImagePull",
    "ImagePush",
    "ImageRemove",
    "ImageSave",
    "ImageTag",
    "ImageUntag",
    "KeptLogRemove",
    "NamesProtect",
    "NetworkConnect",
    "NetworkCreate",
    "NetworkDisconnect",
    "NetworkPrune",
    "NetworkRemove",
    "NodeError",
    "NodeEvent",
    "NodeKey",
    "NodeSilent",
    "Outcome",
    "Problem",
    "RegistryAccess",
    "Subnet",
    "SystemCheck",
    "SystemPrune",
    "SystemRepair",
    "VolumeBackup",
    "VolumeCreate",
    "VolumePrune",
    "VolumeRemove",
    "VolumeRestore",
    "all_kinds",
    "contract_of",
]
