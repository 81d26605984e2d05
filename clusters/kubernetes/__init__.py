"""Kubernetes, through KubeRay's RayJobs."""
