{{/* What several templates share: names, labels, images, and who the operator is. */}}

{{- define "quorate.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "quorate.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains (include "quorate.name" .) .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "quorate.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "quorate.operator" -}}
{{ include "quorate.fullname" . }}-operator
{{- end }}

{{/* On every object. */}}
{{- define "quorate.labels" -}}
app.kubernetes.io/name: {{ include "quorate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* By which the operator's pods are found. They never change: a Deployment's selector cannot. */}}
{{- define "quorate.operatorSelector" -}}
app.kubernetes.io/name: {{ include "quorate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "quorate.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "quorate.operator" .) }}
{{- end }}

{{/* The operator, as the API server knows it: for policies. */}}
{{- define "quorate.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "quorate.serviceAccount" . }}
{{- end }}

{{/* An image's name: include "quorate.image" (list . .Values.operator.image). */}}
{{- define "quorate.image" -}}
{{- $root := index . 0 }}{{- $image := index . 1 }}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* What Pod Security calls restricted, for a container. */}}
{{- define "quorate.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* And for a pod: no image has any other user. */}}
{{- define "quorate.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
