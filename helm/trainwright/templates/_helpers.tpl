{{/* First part of every name. Room is left for the longest suffix within 63 characters. */}}
{{- define "trainwright.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "trainwright.labels" -}}
{{ include "trainwright.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels that never change, for selectors. */}}
{{- define "trainwright.selector" -}}
app.kubernetes.io/name: trainwright
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: trainwright
{{- end -}}

{{/* Name of a Secret: the existing one, or ours. Takes [root, existing, suffix]. */}}
{{- define "trainwright.secretName" -}}
{{- $root := index . 0 -}}
{{- index . 1 | default (printf "%s-%s" (include "trainwright.name" $root) (index . 2)) -}}
{{- end -}}

{{- define "trainwright.rayTokenSecret" -}}
{{- include "trainwright.secretName" (list . .Values.rayToken.existingSecret "ray-token") -}}
{{- end -}}

{{- define "trainwright.mlflowSecret" -}}
{{- include "trainwright.secretName" (list . .Values.mlflow.existingSecret "mlflow-admin") -}}
{{- end -}}

{{- define "trainwright.jobsMlflowSecret" -}}
{{- include "trainwright.secretName" (list . .Values.jobs.mlflowSecret "mlflow-jobs") -}}
{{- end -}}

{{/*
One key of a Secret that is generated once: the value that `existing` holds, byte for byte, else a new one.
Takes a dict: existing (a Secret or an empty dict), key, length. The result is base64.
*/}}
{{- define "trainwright.keptValue" -}}
{{- $data := (.existing | default dict).data | default dict -}}
{{- if hasKey $data .key -}}
{{- index $data .key -}}
{{- else -}}
{{- randAlphaNum (int .length) | b64enc -}}
{{- end -}}
{{- end -}}

{{- define "trainwright.storageClaim" -}}
{{- if not .Values.storage.url -}}
{{- .Values.storage.existingClaim | default (printf "%s-storage" (include "trainwright.name" .)) -}}
{{- end -}}
{{- end -}}

{{/* Where an image is pulled from, registry/repository:tag or @digest. Takes [root, image, tag by default]. */}}
{{- define "trainwright.pulledFrom" -}}
{{- $image := index . 1 -}}
{{- with (index . 0).Values.global.imageRegistry | default $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (index . 2) }}{{ end -}}
{{- end -}}

{{- define "trainwright.image" -}}
{{- include "trainwright.pulledFrom" (list . .Values.image .Chart.AppVersion) -}}
{{- end -}}

{{- define "trainwright.mlflowImage" -}}
{{- if .Values.mlflow.image.repository -}}
{{- include "trainwright.pulledFrom" (list . .Values.mlflow.image "") -}}
{{- else -}}
{{- include "trainwright.image" . -}}
{{- end -}}
{{- end -}}

{{- define "trainwright.jobsAccount" -}}
{{- .Values.jobs.serviceAccount | default (printf "%s-jobs" (include "trainwright.name" .)) -}}
{{- end -}}

{{- define "trainwright.mlflowAccount" -}}
{{- .Values.mlflow.serviceAccount | default (printf "%s-mlflow" (include "trainwright.name" .)) -}}
{{- end -}}

{{/* What looks for living runs before `helm uninstall`. */}}
{{- define "trainwright.beforeUninstall" -}}
{{- printf "%s-before-uninstall" (include "trainwright.name" .) -}}
{{- end -}}

{{/* Nodes that MLflow's pods may run on. */}}
{{- define "trainwright.mlflowNodes" -}}
{{- with .Values.mlflow.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.mlflow.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "trainwright.mlflowUri" -}}
{{- if .Values.mlflow.enabled -}}
http://{{ include "trainwright.name" . }}-mlflow.{{ .Release.Namespace }}.svc:5000
{{- else -}}
{{- .Values.mlflow.externalUri -}}
{{- end -}}
{{- end -}}

{{/* Whether the server needs a volume: for the SQLite file or for artifacts. Empty: no. */}}
{{- define "trainwright.mlflowVolume" -}}
{{- if and .Values.mlflow.enabled (or (not .Values.mlflow.databaseSecret) (not .Values.mlflow.artifacts)) -}}
{{- .Values.mlflow.existingClaim | default (printf "%s-mlflow" (include "trainwright.name" .)) -}}
{{- end -}}
{{- end -}}

{{/* The ConfigMap with the server's scripts; another name for other contents, since it is immutable. */}}
{{- define "trainwright.mlflowScripts" -}}
{{- $contents := printf "%s%s%s" (.Files.Get "files/check_mlflow.py") (.Files.Get "files/mlflow_backup.py") (.Files.Get "files/mlflow_start.py") -}}
{{- printf "%s-mlflow-%s" (include "trainwright.name" .) ($contents | sha256sum | trunc 8) -}}
{{- end -}}

{{/* Every Host header that reaches the server by a way that the chart makes. The comparison is exact. */}}
{{- define "trainwright.mlflowHosts" -}}
{{- $service := printf "%s-mlflow" (include "trainwright.name" .) -}}
{{- $hosts := list -}}
{{- range $host := list $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.cluster.local" $service .Release.Namespace) -}}
{{- $hosts = concat $hosts (list $host (printf "%s:5000" $host)) -}}
{{- end -}}
{{- $hosts = concat $hosts (list "localhost" "localhost:*" "127.0.0.1" "127.0.0.1:*" "$(POD_IP):5000") -}}
{{- if .Values.ingress.enabled -}}
{{- $hosts = concat $hosts (list .Values.ingress.host (printf "%s:443" .Values.ingress.host)) -}}
{{- end -}}
{{- concat $hosts .Values.mlflow.allowedHosts | uniq | join "," -}}
{{- end -}}

{{- define "trainwright.mlflowOrigins" -}}
{{- $origins := list -}}
{{- if .Values.ingress.enabled -}}
{{- $origins = append $origins (printf "https://%s" .Values.ingress.host) -}}
{{- end -}}
{{- concat $origins .Values.mlflow.corsOrigins | uniq | join "," -}}
{{- end -}}

{{/* A Kubernetes size in Mi, Gi or Ti as a whole number of MiB. */}}
{{- define "trainwright.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- if eq $unit "Ti" -}}{{ mul $number 1048576 }}
{{- else if eq $unit "Gi" -}}{{ mul $number 1024 }}
{{- else -}}{{ $number }}
{{- end -}}
{{- end -}}

{{- define "trainwright.sharedMemory" -}}
{{- if .sharedMemory -}}{{ .sharedMemory }}
{{- else -}}
{{- printf "%dMi" (div (mul (include "trainwright.mebibytes" .memory | int64) 3) 10) -}}
{{- end -}}
{{- end -}}

{{/* Name of the Kueue LocalQueue that jobs go to; empty: none. */}}
{{- define "trainwright.queue" -}}
{{- if .Values.kueue.enabled -}}{{ include "trainwright.name" . }}{{- else -}}{{ .Values.jobs.queue }}{{- end -}}
{{- end -}}

{{- define "trainwright.kueueApi" -}}
{{- if and (.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta1") (not (.Capabilities.APIVersions.Has "kueue.x-k8s.io/v1beta2")) -}}
kueue.x-k8s.io/v1beta1
{{- else -}}
kueue.x-k8s.io/v1beta2
{{- end -}}
{{- end -}}

{{/* Whether to render objects of the Prometheus operator: asked for, and its API is there. */}}
{{- define "trainwright.monitoring" -}}
{{- if and .Values.monitoring.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") -}}true{{- end -}}
{{- end -}}

{{/* Pod and container security of Pod Security "restricted". */}}
{{- define "trainwright.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAs.user }}
runAsGroup: {{ .Values.runAs.group }}
fsGroup: {{ .Values.runAs.group }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "trainwright.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "trainwright.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The cluster profile that `trainwright --cluster` reads. */}}
{{- define "trainwright.profile" -}}
name: {{ include "trainwright.name" . }}
kind: kubernetes
image: {{ include "trainwright.image" . }}
ray_version: {{ .Values.rayVersion | quote }}
storage: {{ .Values.storage.url | default .Values.storage.path }}
{{- with include "trainwright.mlflowUri" . }}
mlflow: {{ . }}
{{- end }}
{{- if and .Values.mlflow.enabled .Values.ingress.enabled }}
mlflow_ui: https://{{ .Values.ingress.host }}
{{- end }}
secrets:
  ray_token_secret: {{ include "trainwright.rayTokenSecret" . }}
  {{- if or (and .Values.mlflow.enabled .Values.mlflow.auth) .Values.jobs.mlflowSecret }}
  mlflow_secret: {{ include "trainwright.jobsMlflowSecret" . }}
  {{- end }}
  {{- with .Values.storage.existingSecret }}
  storage_secret: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  image_pull_secrets: {{ toJson . }}
  {{- end }}
head:
  cpus: {{ .Values.head.cpus }}
  memory: {{ .Values.head.memory }}
  {{- with .Values.head.labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.podLabels }}
  pod_labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
node_groups:
{{- range .Values.nodeGroups }}
  - name: {{ .name }}
    cpus: {{ .cpus }}
    memory: {{ .memory }}
    {{- with .gpus }}
    gpus: {{ . }}
    {{- end }}
    {{- with .acceleratorType }}
    accelerator_type: {{ . }}
    {{- end }}
    min: {{ .min | default 0 }}
    max: {{ .max | default 1 }}
    {{- if .spot }}
    spot: true
    {{- end }}
    {{- with .labels }}
    labels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    shared_memory: {{ include "trainwright.sharedMemory" . }}
    {{- with .annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .podLabels }}
    pod_labels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .environment }}
    environment:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
kubernetes:
  namespace: {{ .Release.Namespace }}
  service_account: {{ include "trainwright.jobsAccount" . }}
  {{- with include "trainwright.queue" . }}
  queue: {{ . }}
  {{- end }}
  gang_scheduler: {{ .Values.jobs.gangScheduler }}
  {{- with .Values.jobs.priorityClass }}
  priority_class: {{ . }}
  {{- end }}
  {{- with include "trainwright.storageClaim" . }}
  storage_claim: {{ . }}
  {{- end }}
  {{- with .Values.jobs.claims }}
  claims:
    {{- range . }}
    - claim: {{ .claim }}
      path: {{ .path }}
      read_only: {{ ne .readOnly false }}
    {{- end }}
  {{- end }}
  image_pull_policy: {{ .Values.imagePullPolicy }}
  {{- if .Values.packages.enabled }}
  packages:
    config_maps: {{ include "trainwright.packageConfigMaps" . }}
    key: {{ include "trainwright.packagesKey" . | quote }}
    {{- with include "trainwright.packagesClaim" . }}
    claim: {{ . }}
    {{- end }}
  {{- end }}
  user: {{ .Values.runAs.user }}
  group: {{ .Values.runAs.group }}
  autoscaling: {{ .Values.jobs.autoscaling }}
  {{- with .Values.jobs.activeDeadline }}
  active_deadline: {{ . }}
  {{- end }}
  start_deadline: {{ .Values.jobs.startDeadline }}
  keep_head: {{ .Values.jobs.keepHead }}
  keep_job: {{ .Values.jobs.keepJob }}
  labels:
    app.kubernetes.io/part-of: trainwright
    trainwright/cluster: {{ include "trainwright.name" . }}
{{- with .Values.jobs.environment }}
environment:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
