{{/* Choices that contradict each other. Each sentence says what to set. */}}
{{- define "trainwright.checks" -}}
{{- $mlflow := .Values.mlflow -}}
{{- include "trainwright.imageChecks" . -}}
{{- include "trainwright.packagesChecks" . -}}
{{- if and .Values.storage.url .Values.storage.existingClaim -}}
{{- fail "storage.url and storage.existingClaim are both set: set storage.url for object storage or storage.existingClaim for a volume, not both" -}}
{{- end -}}
{{- if and $mlflow.enabled $mlflow.externalUri -}}
{{- fail "mlflow.enabled and mlflow.externalUri are both set: set mlflow.enabled=false to use the server at mlflow.externalUri" -}}
{{- end -}}
{{- if $mlflow.enabled -}}
{{- if and (gt (int $mlflow.replicas) 1) (not $mlflow.databaseSecret) -}}
{{- fail (printf "mlflow.replicas is %d and the database is SQLite, which one pod alone can use: set mlflow.replicas=1, or mlflow.databaseSecret to a Secret with a PostgreSQL uri" (int $mlflow.replicas)) -}}
{{- end -}}
{{- if and (gt (int $mlflow.replicas) 1) (not $mlflow.artifacts) -}}
{{- fail (printf "mlflow.replicas is %d and artifacts are on one pod's volume: set mlflow.replicas=1, or mlflow.artifacts to s3://… or gs://…" (int $mlflow.replicas)) -}}
{{- end -}}
{{- if and $mlflow.existingClaim (not (include "trainwright.mlflowVolume" .)) -}}
{{- fail "mlflow.existingClaim is set, but with mlflow.databaseSecret and mlflow.artifacts the server has no volume: unset mlflow.existingClaim" -}}
{{- end -}}
{{- if and (not $mlflow.auth) $mlflow.existingSecret -}}
{{- fail "mlflow.existingSecret is set and mlflow.auth is off: set mlflow.auth=true, or unset mlflow.existingSecret" -}}
{{- end -}}
{{- if and (not $mlflow.auth) $mlflow.teams -}}
{{- fail "mlflow.teams is set and mlflow.auth is off, which lets everyone see everything: set mlflow.auth=true, or unset mlflow.teams" -}}
{{- end -}}
{{- $teams := list -}}
{{- range $mlflow.teams -}}
{{- if has .name $teams -}}
{{- fail (printf "mlflow.teams names %s twice: give each team a name of its own" .name) -}}
{{- end -}}
{{- $teams = append $teams .name -}}
{{- end -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- if not $mlflow.enabled -}}
{{- fail "ingress.enabled is set and mlflow.enabled is off: there is nothing to reach; set ingress.enabled=false" -}}
{{- end -}}
{{- if not $mlflow.auth -}}
{{- fail "ingress.enabled is set and mlflow.auth is off, which would let anyone in: set mlflow.auth=true, or ingress.enabled=false" -}}
{{- end -}}
{{- if not .Values.ingress.host -}}
{{- fail "ingress.enabled is set without a host: set ingress.host" -}}
{{- end -}}
{{- if not .Values.ingress.tlsSecret -}}
{{- fail "ingress.enabled is set without TLS, which would send passwords in the clear: set ingress.tlsSecret" -}}
{{- end -}}
{{- end -}}
{{- $folders := list "/tmp" "/dev/shm" "/etc/trainwright" "/opt/trainwright" -}}
{{- if not .Values.storage.url -}}
{{- $folders = append $folders .Values.storage.path -}}
{{- end -}}
{{- range .Values.jobs.claims -}}
{{- $path := trimSuffix "/" .path -}}
{{- range $folders -}}
{{- if or (hasPrefix (printf "%s/" .) (printf "%s/" $path)) (hasPrefix (printf "%s/" $path) (printf "%s/" .)) -}}
{{- fail (printf "jobs.claims: %s and %s, which pods have already, lie in each other: give another path" $path .) -}}
{{- end -}}
{{- end -}}
{{- $folders = append $folders $path -}}
{{- end -}}
{{- if and .Values.kueue.enabled .Values.jobs.queue -}}
{{- fail "kueue.enabled and jobs.queue are both set: unset jobs.queue to use the queue that the chart makes, or set kueue.enabled=false to use yours" -}}
{{- end -}}
{{- if and (include "trainwright.queue" .) (ne .Values.jobs.gangScheduler "none") -}}
{{- fail "jobs.gangScheduler is set together with a Kueue queue, which places jobs as a whole already: set jobs.gangScheduler=none, or use no queue" -}}
{{- end -}}
{{- range .Values.nodeGroups -}}
{{- if and $.Values.kueue.enabled .resources -}}
{{- fail (printf "nodeGroups %s has resources, which the queue that kueue.enabled makes doesn't cover, so no job would be admitted: set jobs.queue to a queue of yours that does, with kueue.enabled=false" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.jobs.serviceAccount .Values.jobs.serviceAccountAnnotations -}}
{{- fail "jobs.serviceAccount and jobs.serviceAccountAnnotations are both set: annotate the existing ServiceAccount yourself, or unset jobs.serviceAccount" -}}
{{- end -}}
{{- if and .Values.networkPolicy.teamNamespaces (not $mlflow.enabled) -}}
{{- fail "networkPolicy.teamNamespaces is set and mlflow.enabled is off: there is nothing for them to reach; set it in the release that has MLflow" -}}
{{- end -}}
{{- if and .Values.mlflow.serviceAccount .Values.mlflow.serviceAccountAnnotations -}}
{{- fail "mlflow.serviceAccount and mlflow.serviceAccountAnnotations are both set: annotate the existing ServiceAccount yourself, or unset mlflow.serviceAccount" -}}
{{- end -}}
{{- range $label, $_ := .Values.mlflow.podLabels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $label) (hasPrefix "helm.sh/" $label) -}}
{{- fail (printf "mlflow.podLabels has %s, which the chart sets itself: take it out" $label) -}}
{{- end -}}
{{- end -}}
{{- if and (include "trainwright.queue" .) .Values.jobs.autoscaling -}}
{{- fail "jobs.autoscaling is set together with a Kueue queue, which admits a fixed number of pods: set jobs.autoscaling=false, or use no queue" -}}
{{- end -}}
{{- $operator := index .Values "kuberay-operator" -}}
{{- if and $operator.enabled (ne .Values.jobs.gangScheduler "none") (ne (dig "batchScheduler" "name" "" $operator) .Values.jobs.gangScheduler) -}}
{{- fail (printf "jobs.gangScheduler is %s, but the operator doesn't know it: set kuberay-operator.batchScheduler.name=%s" .Values.jobs.gangScheduler .Values.jobs.gangScheduler) -}}
{{- end -}}
{{- $seen := dict -}}
{{- range .Values.nodeGroups -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "two of nodeGroups are named %s: give each a name of its own" .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- if gt (int (.min | default 0)) (int (.max | default 1)) -}}
{{- fail (printf "nodeGroups %s has min %d above max %d: set min to %d or less" .name (int (.min | default 0)) (int (.max | default 1)) (int (.max | default 1))) -}}
{{- end -}}
{{- end -}}
{{- if gt (len .Values.nodeGroups) 15 -}}
{{- if .Values.kueue.enabled -}}
{{- fail (printf "kueue.enabled allows at most 15 nodeGroups and there are %d: take some away, or set kueue.enabled=false" (len .Values.nodeGroups)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.priorityClasses -}}
{{- $there := lookup "scheduling.k8s.io/v1" "PriorityClass" "" (printf "%s-%s" (include "trainwright.name" $) .name) -}}
{{- if $there -}}
{{- if ne (int $there.value) (int .value) -}}
{{- fail (printf "priorityClasses %s has the value %d now and Kubernetes keeps it, so it can't become %d: give it another name" .name (int $there.value) (int .value)) -}}
{{- end -}}
{{- if ne $there.preemptionPolicy (ternary "PreemptLowerPriority" "Never" (.preempt | default false)) -}}
{{- fail (printf "priorityClasses %s can't change preempt, which Kubernetes keeps as it is: give it another name" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.checks.storage -}}
{{- include "trainwright.storageChecks" . -}}
{{- end -}}
{{- end -}}

{{/* What an image lacks or says twice. */}}
{{- define "trainwright.imageChecks" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: set it to that of a trainwright image, e.g. --set image.registry=registry.example.com,image.repository=trainwright" -}}
{{- end -}}
{{- range $name, $image := dict "image" .Values.image "mlflow.image" .Values.mlflow.image -}}
{{- if and $image.tag $image.digest -}}
{{- fail (printf "%s.tag and %s.digest are both set, and a digest alone decides what runs: unset one of them" $name $name) -}}
{{- end -}}
{{- end -}}
{{- $image := .Values.mlflow.image -}}
{{- if and $image.repository (not $image.tag) (not $image.digest) -}}
{{- fail "mlflow.image.repository is set without a version: set mlflow.image.tag or mlflow.image.digest" -}}
{{- end -}}
{{- if and (not $image.repository) (or $image.registry $image.tag $image.digest) -}}
{{- fail "mlflow.image names no image: set mlflow.image.repository, or unset the rest of mlflow.image to run the server from image" -}}
{{- end -}}
{{- $operator := index .Values "kuberay-operator" -}}
{{- with .Values.global.imageRegistry -}}
{{- if and $operator.enabled (not (hasPrefix (printf "%s/" .) $operator.image.repository)) -}}
{{- fail (printf "global.imageRegistry is %s and the operator's image, which its own chart names, is still %s: set kuberay-operator.image.repository=%s/…/operator" . $operator.image.repository .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
