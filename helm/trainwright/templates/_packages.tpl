{{/* What pip is told. */}}
{{- define "trainwright.pipConf" -}}
[global]
index-url = {{ .Values.packages.indexUrl }}
{{- with .Values.packages.extraIndexUrls }}
extra-index-url ={{ range . }}
    {{ . }}{{ end }}
{{- end }}
{{- if .Values.packages.wheelConfigMap }}
find-links = /etc/trainwright/packages
{{- end }}
{{- end -}}

{{/* Name of an installation: another for another image, other packages or another way to install them. */}}
{{- define "trainwright.packagesKey" -}}
{{- $contents := list (include "trainwright.image" .) .Values.packages.requirements (.Files.Get "files/install_packages.py") -}}
{{- printf "p%s" ($contents | join "\n" | sha256sum | trunc 12) -}}
{{- end -}}

{{/* The ConfigMap with the script, the requirements and what pip is told; another name for other contents, since it is immutable. */}}
{{- define "trainwright.packagesConfigMap" -}}
{{- $contents := printf "%s%s" (include "trainwright.packagesKey" .) (include "trainwright.pipConf" .) -}}
{{- printf "%s-packages-%s" (include "trainwright.name" .) ($contents | sha256sum | trunc 8) -}}
{{- end -}}

{{/* All ConfigMaps that pods find together, as a JSON list. */}}
{{- define "trainwright.packageConfigMaps" -}}
{{- list (include "trainwright.packagesConfigMap" .) .Values.packages.wheelConfigMap | compact | toJson -}}
{{- end -}}

{{/* The claim that keeps what is installed; empty: none. */}}
{{- define "trainwright.packagesClaim" -}}
{{- if and .Values.packages.enabled .Values.packages.shared -}}
{{- .Values.packages.existingClaim | default (printf "%s-packages" (include "trainwright.name" .)) -}}
{{- end -}}
{{- end -}}

{{- define "trainwright.packagesAccessMode" -}}
{{- .Values.packages.accessMode | default (include "trainwright.accessMode" .) -}}
{{- end -}}

{{/* What an installation lacks, or has for nothing. */}}
{{- define "trainwright.packagesChecks" -}}
{{- $packages := .Values.packages -}}
{{- if and $packages.enabled (not $packages.requirements) -}}
{{- fail "packages.enabled is set without packages.requirements: make them with scripts/lock_packages.py and give --set-file packages.requirements=requirements.txt" -}}
{{- end -}}
{{- if and (not $packages.enabled) (or $packages.requirements $packages.wheelConfigMap) -}}
{{- fail "packages.requirements or packages.wheelConfigMap is set and packages.enabled is off: set packages.enabled=true, or unset them" -}}
{{- end -}}
{{- if and (not $packages.enabled) (eq .Values.image.repository "rayproject/ray") -}}
{{- fail "image.repository is rayproject/ray, which has no trainwright: set packages.enabled=true and packages.requirements, or another image" -}}
{{- end -}}
{{- if and (not $packages.shared) $packages.existingClaim -}}
{{- fail "packages.existingClaim is set and packages.shared is off: set packages.shared=true, or unset packages.existingClaim" -}}
{{- end -}}
{{- $first := splitList "\n" $packages.requirements | first -}}
{{- $made := regexFind "Python 3\\.[0-9]+" $first | trimPrefix "Python 3." -}}
{{- $image := regexFind "-py3[0-9]+" .Values.image.tag | trimPrefix "-py3" -}}
{{- if and $packages.enabled $image (ne $made $image) -}}
{{- fail (printf "image.tag is %s and packages.requirements are for Python 3.%s: make them with scripts/lock_packages.py by Python 3.%s, or take the image of the other" .Values.image.tag ($made | default "?") $image) -}}
{{- end -}}
{{- $version := regexFind "^[0-9]+\\.[0-9]+\\.[0-9]+" .Values.image.tag -}}
{{- if and $packages.enabled (eq .Values.image.repository "rayproject/ray") $version (ne $version .Values.rayVersion) -}}
{{- fail (printf "image.tag is %s and rayVersion is %s: set both to the same version of Ray" .Values.image.tag .Values.rayVersion) -}}
{{- end -}}
{{- if and $packages.enabled (not (regexMatch (printf "(?m)^ray==%s " (.Values.rayVersion | replace "." "\\.")) $packages.requirements)) -}}
{{- fail (printf "packages.requirements have no ray==%s, which rayVersion and the image have: make them with scripts/lock_packages.py of this version" .Values.rayVersion) -}}
{{- end -}}
{{- end -}}
