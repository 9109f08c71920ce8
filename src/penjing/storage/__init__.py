"""Files that are whole or absent, checked before they are trusted, and never pickled."""

from penjing.storage.atomic import atomic_file, atomic_folder, atomic_write, is_disk_full, remove_leftovers, sync
from penjing.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from penjing.storage.codecs import entropy_bound
from penjing.storage.hashing import fingerprint, fingerprint_tensors, sha256_file
from penjing.storage.manifest import FileEntry, Manifest, library_versions, read_manifest, write_manifest
from penjing.storage.random_state import get_random_state, set_random_state
from penjing.storage.strict_json import canonical_json, dump_json, load_json
from penjing.storage.tensors import load_metadata, load_tensors, save_tensors
from penjing.storage.user import user_folder

__all__ = [
    "Checkpoint",
    "FileEntry",
    "Manifest",
    "atomic_file",
    "atomic_folder",
    "atomic_write",
    "canonical_json",
    "dump_json",
    "entropy_bound",
    "fingerprint",
    "fingerprint_tensors",
    "get_random_state",
    "is_disk_full",
    "library_versions",
    "load_checkpoint",
    "load_json",
    "load_metadata",
    "load_tensors",
    "read_manifest",
    "remove_leftovers",
    "save_checkpoint",
    "save_tensors",
    "set_random_state",
    "sha256_file",
    "sync",
    "user_folder",
    "write_manifest",
]
