"""The folder in which Ray's libraries keep notes of their own; they insist on one that all machines of a sweep see."""

import shutil
from typing import Any

from pipeline.storage.remote import RemoteStore
from pipeline.storage.store import TrialStore

_NAME = ".tune"


def storage(store: TrialStore) -> dict[str, Any]:
    """Where it is, beside the trials of a store, as arguments of Ray's run configurations."""
    if isinstance(store, RemoteStore):
        files, folder = store.objects.file_system()
        return {"storage_path": f"{folder}/{_NAME}", "storage_filesystem": files}
    return {"storage_path": str(store.root / _NAME)}


def clear(store: TrialStore) -> None:
    """Remove it, as nothing in it is of any use to another sweep."""
    if isinstance(store, RemoteStore):
        store.objects.delete(f"{_NAME}/{name}" for name in store.objects.list(_NAME))
    else:
        shutil.rmtree(store.root / _NAME, ignore_errors=True)
