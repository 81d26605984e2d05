{{/* Provisioners whose volumes one node mounts at a time. */}}
{{- define "trainwright.isForOneNode" -}}
{{- $single := list "rancher.io/local-path" "openebs.io/local" "local.csi.openebs.io" "topolvm.io" -}}
{{- $single = concat $single (list "ebs.csi.aws.com" "kubernetes.io/aws-ebs" "pd.csi.storage.gke.io" "kubernetes.io/gce-pd") -}}
{{- $single = concat $single (list "disk.csi.azure.com" "kubernetes.io/azure-disk" "cinder.csi.openstack.org") -}}
{{- $single = concat $single (list "dobs.csi.digitalocean.com" "csi.hetzner.cloud" "linodebs.csi.linode.com") -}}
{{- has . $single | ternary "yes" "" -}}
{{- end -}}

{{/* The StorageClass of a name, or the default one, as JSON; empty: none. Takes [classes, name]. */}}
{{- define "trainwright.storageClass" -}}
{{- $name := index . 1 -}}
{{- range index . 0 -}}
{{- $default := eq "true" (get (.metadata.annotations | default dict) "storageclass.kubernetes.io/is-default-class") -}}
{{- if ternary $default (eq .metadata.name $name) (empty $name) -}}
{{- toJson . -}}
{{- break -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Access mode of the checkpoints' claim: a claim that is there keeps its own. */}}
{{- define "trainwright.accessMode" -}}
{{- $mode := .Values.storage.accessMode -}}
{{- if and (not $mode) .Values.checks.storage -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (include "trainwright.storageClaim" .) -}}
{{- $mode = first (dig "spec" "accessModes" (list "") $claim) -}}
{{- if and (not $mode) (eq 1 (len ((lookup "v1" "Node" "" "").items | default list))) -}}
{{- $classes := (lookup "storage.k8s.io/v1" "StorageClass" "" "").items | default list -}}
{{- $class := include "trainwright.storageClass" (list $classes .Values.storage.storageClass) | default "{}" | fromJson -}}
{{- if include "trainwright.isForOneNode" ($class.provisioner | default "") -}}
{{- $mode = "ReadWriteOnce" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $mode | default "ReadWriteMany" -}}
{{- end -}}

{{/* Claims that could not be bound. `helm template` has no cluster to look into, and finds nothing wrong. */}}
{{- define "trainwright.storageChecks" -}}
{{- $classes := lookup "storage.k8s.io/v1" "StorageClass" "" "" -}}
{{- $claims := dict -}}
{{- range (lookup "v1" "PersistentVolumeClaim" .Release.Namespace "").items -}}
{{- $_ := set $claims .metadata.name . -}}
{{- end -}}
{{- if hasKey $classes "items" -}}
{{- $mlflow := include "trainwright.mlflowVolume" . -}}
{{- $wanted := list -}}
{{- if not .Values.storage.url -}}
{{- $wanted = append $wanted (dict "values" "storage" "claim" (include "trainwright.storageClaim" .) "mode" (include "trainwright.accessMode" .)) -}}
{{- end -}}
{{- with include "trainwright.packagesClaim" . -}}
{{- $wanted = append $wanted (dict "values" "packages" "claim" . "mode" (include "trainwright.packagesAccessMode" $)) -}}
{{- end -}}
{{- if $mlflow -}}
{{- $wanted = append $wanted (dict "values" "mlflow" "claim" $mlflow "mode" "ReadWriteOnce") -}}
{{- end -}}
{{- range $wanted -}}
{{- $given := index $.Values .values -}}
{{- if hasKey $claims .claim -}}
{{- else if $given.existingClaim -}}
{{- fail (printf "%s.existingClaim is %s, but namespace %s has no such claim: make it first, or unset %s.existingClaim" .values .claim $.Release.Namespace .values) -}}
{{- else -}}
{{- $class := include "trainwright.storageClass" (list $classes.items $given.storageClass) | default "{}" | fromJson -}}
{{- $names := list -}}
{{- range $classes.items }}{{ $names = append $names .metadata.name }}{{ end -}}
{{- $there := $names | sortAlpha | join ", " | default "none" -}}
{{- if and (not $class) $given.storageClass -}}
{{- fail (printf "%s.storageClass is %s, which this cluster doesn't have (it has: %s): set %s.storageClass to one of them, or checks.storage=false where volumes of that class are made by hand" .values $given.storageClass $there .values) -}}
{{- else if not $class -}}
{{- fail (printf "%s.storageClass is empty and this cluster has no default StorageClass (it has: %s), so claim %s would never be bound: set %s.storageClass" .values $there .claim .values) -}}
{{- else if and (eq .mode "ReadWriteMany") (include "trainwright.isForOneNode" $class.provisioner) -}}
{{- $other := ternary "storage.url to s3://… or gs://…" "packages.shared=false to install in each pod" (eq .values "storage") -}}
{{- fail (printf "%s.accessMode is ReadWriteMany, but volumes of StorageClass %s (%s) are mounted by one node at a time, so claim %s would never be bound: set %s.storageClass to one with shared volumes (NFS, EFS, Filestore), %s, or, with one node, %s.accessMode=ReadWriteOnce" .values $class.metadata.name $class.provisioner .claim .values $other .values) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
