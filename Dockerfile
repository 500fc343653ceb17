# Airflow with what Upkeep needs, from the lock file; the sandbox is a second target.
FROM apache/airflow:3.3.2-python3.12 AS airflow
COPY --chown=airflow:root requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock
# Tasks find plugins/ by Airflow; `python -m upkeep` finds it by this.
ENV PYTHONPATH=/opt/airflow/plugins
COPY --chown=airflow:root dags /opt/airflow/dags
COPY --chown=airflow:root plugins /opt/airflow/plugins
COPY --chown=airflow:root include /opt/airflow/include
USER root
# The secrets backend insists on its file; the sandbox profile overwrites it.
RUN install -d -o airflow -g root /reports /sandbox && echo '{}' > /sandbox/connections.json
USER airflow

FROM python:3.12.13-bookworm AS sandbox
WORKDIR /opt/upkeep
COPY requirements-dev.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-dev.lock
ENV PYTHONPATH=/opt/upkeep:/opt/upkeep/plugins
COPY sandbox sandbox
COPY plugins plugins
COPY include include
