"""A double of a Kubernetes cluster: one process with API server, controllers, scheduler and kubelets.

It keeps state, refuses what a real API server refuses, and answers the official client, kubectl and Airflow.
Pods of Deployments are only pretended; pods with ``restartPolicy: Never`` or ``OnFailure`` run their first
container's command as a real local process. Not there: exec, attach, port-forward, custom admission, protobuf.
"""
