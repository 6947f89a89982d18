"""A sweep on two machines of which one dies in the middle: `python cluster.py <store> <trials>`; exit code 0: all done.

Both are on this computer, and Ray takes them for two.
"""

import os
import sys
import threading
import time
from pathlib import Path

from pipeline.running import execute  # before ray: it sets what Ray reads when it is imported

import ray  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip

from pipeline.planning.plan import Plan
from pipeline.running.agenda import Agenda
from pipeline.running.supervision import Interrupts
from pipeline.storage.store import TrialStore
from tests.chaos import fake
from tests.chaos.sweep import resources


def main(root: Path, count: int) -> int:
    """Kill the second machine while both of them train."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20})
    other = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    store = TrialStore(root)

    def kill() -> None:
        while sum("ended" not in attempts[-1] for attempts in map(store.attempts, store.keys()) if attempts) < 2:
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    agenda = Agenda(Plan(experiments=(), trials={one.key: one for one in fake.trials(count)}, searches=()), store)
    with Interrupts(3) as interrupts:
        execute.execute(agenda, resources(root), [], interrupts, fake.work)
    print([[attempt["outcome"] for attempt in store.attempts(key)] for key in agenda.declared], flush=True)
    ray.shutdown()
    cluster.shutdown()
    return int(not agenda.complete() or bool(agenda.failed))


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(code)  # what Ray left at exit would wait for the machine that died
