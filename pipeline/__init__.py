"""The orchestration around `reid`: stages, trial store, scheduling, tracking and report.

Nobody is told that it runs: the telemetry of DVC, MLflow and Ray is off unless the environment says otherwise. They
read these variables when they are imported, and this package is imported before any of them.
"""

import os

_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
