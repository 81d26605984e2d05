{{/* Pod template of the interactive cluster's head or of one worker group. Takes a dict: root, claim, group, head. */}}
{{- define "trainwright.rayPod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "trainwright.labels" $root | nindent 4 }}
    trainwright/cluster: {{ include "trainwright.name" $root }}
    {{- with .group.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .group.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "trainwright.jobsAccount" $root }}
  {{- /* The autoscaler beside the head asks the API server for pods. */}}
  automountServiceAccountToken: {{ and .head $root.Values.jobs.autoscaling }}
  enableServiceLinks: false
  {{- include "trainwright.imagePullSecrets" $root | nindent 2 }}
  {{- with $root.Values.jobs.priorityClass }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .group.labels }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .group.spot }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          ray.io/cluster: {{ include "trainwright.name" $root }}
          ray.io/group: {{ .group.name }}
  {{- end }}
  terminationGracePeriodSeconds: 120
  securityContext:
    {{- include "trainwright.podSecurity" $root | nindent 4 }}
  {{- $packages := $root.Values.packages.enabled }}
  {{- $installed := printf "/opt/trainwright/%s" (include "trainwright.packagesKey" $root) }}
  {{- if $packages }}
  initContainers:
    - name: packages
      image: {{ include "trainwright.image" $root }}
      imagePullPolicy: {{ $root.Values.imagePullPolicy }}
      command: [python, /etc/trainwright/packages/install_packages.py, {{ $installed }}]
      env:
        - name: HOME
          value: /tmp
      resources:
        {{- range $bound := list "requests" "limits" }}
        {{ $bound }}:
          cpu: {{ $.group.cpus | quote }}
          memory: {{ $.group.memory }}
        {{- end }}
      securityContext:
        {{- include "trainwright.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: packages
          mountPath: /opt/trainwright
        - name: install
          mountPath: /etc/trainwright/packages
          readOnly: true
  {{- end }}
  containers:
    - name: {{ if .head }}ray-head{{ else }}ray-worker{{ end }}
      image: {{ include "trainwright.image" $root }}
      imagePullPolicy: {{ $root.Values.imagePullPolicy }}
      env:
        - name: HOME
          value: /tmp
        {{- if $packages }}
        - name: PATH
          value: {{ $installed }}/bin:/home/ray/anaconda3/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/nvidia/bin
        - name: MLFLOW_DISABLE_TELEMETRY
          value: "true"
        - name: PYTHONDONTWRITEBYTECODE
          value: "1"
        - name: PYTHONUNBUFFERED
          value: "1"
        - name: RAY_USAGE_STATS_ENABLED
          value: "0"
        {{- end }}
        {{- with include "trainwright.mlflowUri" $root }}
        - name: MLFLOW_TRACKING_URI
          value: {{ . }}
        {{- end }}
        {{- if or (and $root.Values.mlflow.enabled $root.Values.mlflow.auth) $root.Values.jobs.mlflowSecret }}
        {{- range $variable, $key := dict "MLFLOW_TRACKING_PASSWORD" "password" "MLFLOW_TRACKING_USERNAME" "username" }}
        - name: {{ $variable }}
          valueFrom:
            secretKeyRef:
              name: {{ include "trainwright.jobsMlflowSecret" $root }}
              key: {{ $key }}
        {{- end }}
        {{- end }}
        {{- range $variable, $value := merge (dict) $root.Values.jobs.environment (.group.environment | default dict) }}
        - name: {{ $variable }}
          value: {{ $value | quote }}
        {{- end }}
      {{- with $root.Values.storage.existingSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
      {{- end }}
      ports:
        {{- if .head }}
        - name: gcs-server
          containerPort: 6379
        - name: dashboard
          containerPort: 8265
        {{- end }}
        - name: metrics
          containerPort: 8080
      resources:
        {{- range $bound := list "requests" "limits" }}
        {{ $bound }}:
          cpu: {{ $.group.cpus | quote }}
          memory: {{ $.group.memory }}
          {{- with $.group.gpus }}
          nvidia.com/gpu: {{ . | quote }}
          {{- end }}
          {{- range $resource, $count := $.group.resources }}
          {{ $resource }}: {{ $count | quote }}
          {{- end }}
        {{- end }}
      securityContext:
        {{- include "trainwright.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: shm
          mountPath: /dev/shm
        {{- if $packages }}
        - name: packages
          mountPath: /opt/trainwright
          readOnly: true
        {{- end }}
        {{- if .claim }}
        - name: storage
          mountPath: {{ $root.Values.storage.path }}
        {{- end }}
        {{- range $number, $mounted := $root.Values.jobs.claims }}
        - name: claim-{{ $number }}
          mountPath: {{ $mounted.path }}
          readOnly: {{ ne $mounted.readOnly false }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if $packages }}
    - name: packages
      {{- with include "trainwright.packagesClaim" $root }}
      persistentVolumeClaim:
        claimName: {{ . }}
      {{- else }}
      emptyDir: {}
      {{- end }}
    - name: install
      projected:
        sources:
          {{- range include "trainwright.packageConfigMaps" $root | fromJsonArray }}
          - configMap:
              name: {{ . }}
          {{- end }}
    {{- end }}
    - name: shm
      emptyDir:
        medium: Memory
        sizeLimit: {{ include "trainwright.sharedMemory" .group }}
    {{- if .claim }}
    - name: storage
      persistentVolumeClaim:
        claimName: {{ .claim }}
    {{- end }}
    {{- range $number, $mounted := $root.Values.jobs.claims }}
    - name: claim-{{ $number }}
      persistentVolumeClaim:
        claimName: {{ $mounted.claim }}
        readOnly: {{ ne $mounted.readOnly false }}
    {{- end }}
{{- end -}}
