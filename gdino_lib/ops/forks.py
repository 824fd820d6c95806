"""What a process that was forked must know of threads: without it, the first large operation there waits for ever.

A fork copies the thread that asks for it, and no other. Two things of the threads that stay behind are missed in the child. PyTorch
counts on its own threads, so a child computes with one thread, as the workers of PyTorch's `DataLoader` do; processes that are
spawned have all threads. And a lock stays locked that another thread held, so a fork waits until our locks are free.

CUDA cannot be used in a child at all: PyTorch refuses that by itself, in words.
"""

from __future__ import annotations

import os
import threading
import weakref

import torch

_locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()
_held: list[threading.Lock] = []  # while a fork is under way
_forking = threading.Lock()  # of several threads that fork, one after the other


def lock_for_forks() -> threading.Lock:
    """A lock that no thread holds while the process is forked. Its holder must neither fork nor take another such lock."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def _before_fork() -> None:
    _forking.acquire()
    _held.extend(_locks)
    for lock in _held:
        lock.acquire()


def _after_fork() -> None:
    for lock in _held:
        lock.release()
    _held.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    _after_fork()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
