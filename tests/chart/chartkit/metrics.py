"""The metrics that dashboards and alerts may read."""

from __future__ import annotations

# What the training loop exports through ray.util.metrics, as Prometheus sees it; docs/helm.md says what each means.
TRAINWRIGHT = {
    "ray_trainwright_step",
    "ray_trainwright_loss",
    "ray_trainwright_samples_per_second",
    "ray_trainwright_data_wait_share",
    "ray_trainwright_checkpoint_age_seconds",
    "ray_trainwright_checkpoint_stall_seconds_total",
    "ray_trainwright_seconds_total",
    "ray_trainwright_ledger_seconds",
    "ray_trainwright_effective_training_time",
    "ray_trainwright_restarts_total",
    "ray_trainwright_last_step_timestamp_seconds",
}
TAGS = {"run", "family", "strategy"}
PARTS = {"step", "data_wait", "checkpoint", "evaluate", "samples", "start", "replay", "other"}

# What others export: Ray's nodes, Kueue, the KubeRay operator, MLflow's exporter, Prometheus itself.
OTHERS = {
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_cpu_utilization",
    "ray_node_cpu_count",
    "ray_node_mem_used",
    "ray_resources",
    "kueue_pending_workloads",
    "kueue_admitted_active_workloads",
    "kuberay_job_deployment_status",
    "mlflow_http_request_total",
    "mlflow_http_request_duration_seconds_bucket",
    "up",
}
