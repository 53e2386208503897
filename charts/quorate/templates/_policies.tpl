{{/* What the policies share. CEL in YAML: each expression is one string. */}}

{{/* Enforces the policy of this name where the operator serves: include "quorate.policyBinding" (list . "heads"). */}}
{{- define "quorate.policyBinding" -}}
{{- $root := index . 0 }}{{- $name := index . 1 -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "quorate.fullname" $root }}-{{ $name }}
  labels:
    {{- include "quorate.labels" $root | nindent 4 }}
spec:
  policyName: {{ include "quorate.fullname" $root }}-{{ $name }}
  validationActions: [Deny]
  {{- with $root.Values.operator.namespaces }}
  matchResources:
    namespaceSelector:
      matchExpressions:
      - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
  {{- end }}
{{- end }}

{{/* Whether Kubernetes' own controllers ask, which delete what has lost its owner or its namespace. */}}
{{- define "quorate.isController" -}}
request.userInfo.username in ["system:serviceaccount:kube-system:generic-garbage-collector", "system:serviceaccount:kube-system:namespace-controller", "system:kube-controller-manager"]
{{- end }}

{{/* Whether somebody asks who repairs by hand. */}}
{{- define "quorate.isRecovery" -}}
request.userInfo.?groups.orValue([]).exists(group, group in {{ toJson .Values.policies.recoveryGroups }})
{{- end }}

{{/* How to repair by hand, for messages, within a CEL string. */}}
{{- define "quorate.recoveryHint" -}}
{{- with .Values.policies.recoveryGroups }} (to repair something by hand, impersonate the group {{ first . }}: docs/security.md){{ end }}
{{- end }}
