# MLflow's server alone, in the versions of requirements.lock. Build it from the root of the checkout, as compose.yaml does.
FROM python:3.11-slim
COPY requirements.lock /tmp/requirements.lock
RUN sed 's/ *\\$//; /--hash/d' /tmp/requirements.lock > /tmp/constraints.txt \
 && pip install --no-cache-dir --constraint /tmp/constraints.txt mlflow boto3 psycopg2-binary \
 && rm /tmp/requirements.lock /tmp/constraints.txt
COPY deploy/mlflow-server.sh /usr/local/bin/mlflow-server.sh
USER 65534:65534
WORKDIR /tmp
ENTRYPOINT ["mlflow-server.sh"]
