"""A Ray cluster that a sweep joins: how it is reached, what fits on its machines, and whether they are all alike.

Whatever does not fit is found before the first trial starts. One machine that lacks the code, the store or the data
would otherwise take one trial after the other and fail it at once.
"""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from pipeline.planning import shares
from pipeline.planning.shares import Share
from pipeline.planning.words import counted, size

ENVIRONMENT = "REID_ADDRESS"
SETTINGS = {  # of Ray, which reads them when it is imported
    "RAY_AUTH_MODE": "token",  # whoever reaches a cluster without one runs code there
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # sockets are not on loopback alone
    "RAY_NUM_REDIS_GET_RETRIES": "3",  # seconds of asking with a wrong token
}
LEAST_FREE = 10**9  # bytes; less is not enough for anything

_CONNECT_SECONDS, _PROBE_SECONDS = 5.0, 20.0
_NODE_SECONDS, _SAY_SECONDS = 120.0, 10.0  # a first import of torch from a network disk takes its time
_PROBE = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([[n["NodeID"], n["NodeManagerAddress"], n["Resources"]] for n in ray.nodes() if n["Alive"]]))
"""


class ClusterError(ValueError):
    """A cluster cannot be used as it is: a line for every problem, with what to do."""


@dataclass(frozen=True)
class Node(shares.Node):
    """A machine of the cluster and what Ray may use of it. `id` is Ray's own."""

    id: str
    address: str


def parse(nodes: Sequence[Sequence[Any]]) -> tuple[Node, ...]:
    """The machines out of Ray's ids, addresses and resources."""
    return tuple(Node(int(has.get("CPU", 0)), int(has.get("GPU", 0)), name, address) for name, address, has in nodes)


# How it is reached


def named(option: str | None) -> str | None:
    """The address to join, None for a session on this machine alone: the option, or the cluster of the Ray job this is.

    Raises:
        ClusterError: it is no address of a cluster's head.
    """
    if option is None:
        return os.environ["RAY_ADDRESS"] if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else None
    address = os.environ.get("RAY_ADDRESS", "auto") if option == "auto" else option
    if "://" in address:
        raise ClusterError(
            f"{address}: a sweep runs on a machine of the cluster; name its head as host:port there, or send the sweep "
            f"to it: ray job submit --address {address} -- python -m pipeline sweep --address auto"
        )
    if address != "auto" and not re.fullmatch(r"(\[[^\]]+\]|[^\s:/\[\]]+):\d{1,5}", address):
        raise ClusterError(f"{address}: no address of a Ray cluster; allowed: auto, or host:port of its head")
    return address


def reach(address: str) -> tuple[Node, ...]:
    """The machines of the cluster, asked by a process of its own: Ray waits for minutes where nobody answers.

    Raises:
        ClusterError: it does not let us in, or is not there; said within some 20 seconds.
    """
    _warn_of_an_open_token()
    if address != "auto":
        _knock(address)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_JOB_CONFIG_JSON_ENV_VAR"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROBE, address],
            env=environment | SETTINGS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"what listens at {address} does not answer as the head of a Ray cluster; name the port of its GCS, 6379 "
            f"unless `ray start --head --port` said otherwise"
        ) from None
    if done.returncode:
        raise ClusterError(_refusal(address, done.stderr))
    return parse(json.loads(done.stdout.splitlines()[-1]))


def _knock(address: str) -> None:
    """See whether anybody is there at all."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nobody answers at {address} ({error}); start the cluster there with `ray start --head`, or mend the "
            f"address (--address or {ENVIRONMENT})"
        ) from None


def _refusal(address: str, said: str) -> str:
    """What Ray's words mean, and what to do."""
    if "no authentication token was found" in said:
        return (
            f"this machine has no token of the cluster at {address}: copy ~/.ray/auth_token from its head (chmod 600), "
            f"or set RAY_AUTH_TOKEN_PATH to where it is"
        )
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        return (
            f"the cluster at {address} does not accept this machine's token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            f"~/.ray/auth_token): copy ~/.ray/auth_token from its head (chmod 600)"
        )
    if "Version mismatch" in said:
        there, here = (", ".join(pair) for pair in zip(*[iter(_versions(said))] * 2, strict=True))
        return (
            f"the cluster at {address} runs {there}, and this is {here}: install requirements.lock with the same "
            f"Python on all machines"
        )
    if "Could not find any running Ray instance" in said:
        return (
            "no Ray cluster runs on this machine: join one with `ray start --address <head>:6379`, or name its head: "
            f"--address host:port (or {ENVIRONMENT}); a sweep on this machine alone needs neither"
        )
    if "expects this IP address" in said or "No node info found" in said:
        return (
            f"this machine is no part of the cluster at {address}: join it with `ray start --address {address}`, or "
            f"send the sweep there with `ray job submit`"
        )
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it says nothing")
    return (
        f"the cluster at {address} cannot be joined: {last.strip()}; see whether `ray status --address {address}` works"
    )


def _versions(said: str) -> list[str]:
    """`Ray 2.60.0`, `Python 3.11.7` of the cluster, and the same of this process."""
    return [f"{name} {version}" for name, version in re.findall(r"^\s+(Ray|Python): (\S+)$", said, re.MULTILINE)]


def _warn_of_an_open_token() -> None:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if "RAY_AUTH_TOKEN" not in os.environ and path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        print(f"warning: {path} can be read by other users of this machine: chmod 600 {path}", file=sys.stderr)


# Whether its machines are alike


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What trials need of every machine.

    `store`: a folder or address; `data`: the folder of the packed `datasets`, None: they are brought to the machine;
    `cache`: each machine's own folder for what is brought; `shares`: those of the trials; `concurrent`: trials at a
    time, None: as many as there is room for.
    """

    store: str
    data: str | None
    datasets: Sequence[str]
    cache: str
    shares: Sequence[Share]
    concurrent: int | None


def admit(nodes: Sequence[Node], needs: Needs) -> None:
    """See to it that all machines on which a trial has room are fit to run it, measured by the driver's own answers.

    One that is not stops the sweep before it starts: to go on without it would leave a machine idle that somebody pays
    for, and nobody would notice. One that goes away meanwhile is none.

    Raises:
        ClusterError: a line for every machine that is not fit, with what to do there.
    """
    from pipeline.running import node  # which imports torch

    asked = {one.id: one for one in nodes if any(map(one.holds, needs.shares))}
    if not asked:
        _wait_for_machines(nodes, needs)
        return
    print(f"looking at {counted(len(asked), 'machine')}: code, versions, store, data, disk, GPUs", file=sys.stderr)
    with _marker(needs.store) as path:
        wanted: dict[str, Any] = {
            "store": path,
            "data": needs.data,
            "datasets": list(needs.datasets),
            "cache": needs.cache,
            "gpus": any(share.gpus for share in needs.shares),
        }
        waiting = _ask(asked, wanted)
        expected = node.report(**wanted)
        found = _answers(waiting)
    problems = []
    for name, answer in found.items():
        wrong = [answer] if isinstance(answer, str) else differences(asked[name], expected, answer)
        host = "" if isinstance(answer, str) else f" ({answer['host']})"
        problems += [f"{asked[name].address}{host}: {'; '.join(wrong)}"] if wrong else []
    if problems:
        raise ClusterError("\n".join(sorted(problems)))


def _wait_for_machines(nodes: Sequence[Node], needs: Needs) -> None:
    """There is no room yet. A cluster that grows makes some once trials wait for it; how many, params.yaml must say."""
    wanted = " or ".join(sorted(map(str, needs.shares)))
    most = shares.Node(max(one.cpus for one in nodes), max(one.gpus for one in nodes))
    said = f"no machine has room for a trial ({wanted}): the largest of {counted(len(nodes), 'machine')} has {most}"
    if needs.concurrent is None:
        raise ClusterError(f"{said}; if the cluster grows by itself, set sweep.concurrent to the trials at a time")
    print(f"{said}; waiting for it to grow", file=sys.stderr)


def differences(one: Node, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What is wrong with a machine, and what to do, by its `node.report` and the driver's."""
    wrong = []
    if found["code"] != expected["code"]:
        there, here = (f"commit {report['commit'][:9] or 'unknown'}" for report in (found, expected))
        wrong.append(f"other code of reid and pipeline ({there}, here {here}): bring the checkout or image up to date")
    wrong += [
        f"{name} {found[name]}, here {expected[name]}: install requirements.lock there"
        for name in ("python", "torch", "ray")
        if found[name] != expected[name]
    ]
    if not found["token"]:
        wrong.append("Ray asks for no token, so that anybody can run code there: start it with RAY_AUTH_MODE=token")
    wrong += _storage(expected, found)
    if found["free"] < LEAST_FREE:
        wrong.append(f"{size(found['free'])} free on the disk of {found['cache']}: make room there")
    if found["gpus"] is not None and found["gpus"] < one.gpus:
        wrong.append(
            f"Ray counts {one.gpus:g} GPUs, torch sees {found['gpus']}: mend the driver, or `ray start --num-gpus`"
        )
    return wrong


def _storage(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    if found["store"].startswith("!"):
        yield f"the trial store cannot be read and written ({found['store'][1:]}): mount it there under the same path"
    elif found["store"] != expected["store"]:
        yield "another trial store lies under the same name: put it on storage that all machines share"
    for name, digest in expected["data"].items():
        there = found["data"][name]
        if there.startswith("!"):
            yield f"{there[1:]} (or share the data folder)"
        elif there != digest:
            yield f"{name} is another version of the data set: share the data folder, or copy it anew"


@contextmanager
def _marker(store: str) -> Iterator[str]:
    """A file in the store with content that nobody can guess; its path."""
    files, name = fsspec.url_to_fs(store)
    path = f"{store.rstrip('/')}/.cluster-{uuid.uuid4().hex}"
    files.makedirs(name, exist_ok=True)
    with fsspec.open(path, "w") as file:
        file.write(uuid.uuid4().hex)
    try:
        yield path
    finally:
        files.rm_file(fsspec.url_to_fs(path)[1])


def _ask(asked: Iterable[str], wanted: Mapping[str, Any]) -> dict[Any, str]:
    """Have every machine make its report; the machines by what Ray will give for it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(wanted: dict[str, Any]) -> dict[str, Any]:  # travels as code: pipeline may be missing there
        from pipeline.running import node

        return node.report(**wanted)

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    pins = {name: NodeAffinitySchedulingStrategy(name, soft=False) for name in asked}
    return {task.options(scheduling_strategy=pin).remote(dict(wanted)): name for name, pin in pins.items()}


def _answers(waiting: dict[Any, str]) -> dict[str, dict[str, Any] | str]:
    """The report of every machine by its id, or why there is none."""
    import ray

    total = counted(len(waiting), "machine")
    found: dict[str, dict[str, Any] | str] = {}
    deadline = time.monotonic() + _NODE_SECONDS
    while waiting and time.monotonic() < deadline:
        ready, _ = ray.wait(list(waiting), timeout=_SAY_SECONDS)
        for reference in ready:
            name = waiting.pop(reference)
            try:
                found[name] = ray.get(reference)
            except ray.exceptions.RayError as error:
                found[name] = _why(error)
        if not ready:
            print(f"{len(found)} of {total} have answered", file=sys.stderr)
    for reference, name in waiting.items():
        ray.cancel(reference, force=True)
        found[name] = f"no answer within {_NODE_SECONDS:.0f} s: see `ray status`, or take it out of the cluster"
    alive = {one["NodeID"] for one in ray.nodes() if one["Alive"]}
    return {name: answer for name, answer in found.items() if name in alive}


def _why(error: Exception) -> str:
    """Why a machine could not be asked."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, (ImportError, AttributeError, TypeError)):
        return f"it lacks this version of pipeline ({cause}): install the checkout there, or the same image"
    first = next(iter(str(cause).splitlines()), "")
    return f"it could not be asked ({type(cause).__name__}: {first}): see `ray status`, or take it out of the cluster"
