#!/usr/bin/env bash
# MLflow's server over a PostgreSQL database and an S3 artifact store. All settings come from the environment, so that no
# password is seen among the processes; deploy/README.md lists them.
set -euo pipefail

: "${MLFLOW_BACKEND_STORE_URI:?the database, as postgresql+psycopg2://mlflow@127.0.0.1:5432/mlflow; its password is PGPASSWORD}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?where artifacts go, as s3://bucket/mlflow}"
export MLFLOW_BACKEND_STORE_URI

export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false # nothing of ours is a pickle; a model of somebody else's may be
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false  # for language models, at eight processes and 1.2 GB
export MLFLOW_DISABLE_TELEMETRY=true

# There is no login: who reaches the port may read and delete every run. Hence loopback, and a tunnel from elsewhere.
exec "${PYTHON:-python}" -m mlflow server --host "${HOST:-127.0.0.1}" --port "${PORT:-5000}" --workers 1 \
  --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION"
