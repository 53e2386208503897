{{/* What the operator may do in the namespaces that it serves, each rule with its reason. */}}
{{- define "quorate.operatorRules" -}}
# Configs are followed, and what each pod says of them.
- apiGroups: [quorate.io]
  resources: [distributedconfigs, configreplicas]
  verbs: [list, watch]
# What came of a config is told in its status. The config itself is its users'.
- apiGroups: [quorate.io]
  resources: [distributedconfigs/status]
  verbs: [update]
# Layers may come from any ConfigMap. Watched by metadata; the content of those that a config names is fetched.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
# Layers may come from any Secret; and head, candidate and log are Secrets, which it makes, changes (patch: what a head says
# beside its content) and drops (old log entries, candidates that came to nothing). RBAC knows no prefix of a name, so
# that this cannot be narrower; operator.namespaces bounds it.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update, patch, delete]
# The pods of spec.selector are counted: listed when a decision needs them, never watched.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- if .Values.nudge.enabled }}
# (nudge.enabled) kubelet looks at once at a plain volume of the head when an annotation of its pod changes. A policy limits
# the patch to that annotation.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, patch]
{{- end }}
# What happened is told by events.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.rbac.podAccess }}
# (rbac.podAccess) It keeps a Role and a RoleBinding for spec.access.serviceAccounts: that config's head and candidate, by
# their names, and ConfigReplicas. Without `escalate` and `bind` it can give away no more than it has itself.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, update, delete]
# It writes no ConfigReplica: pods do, and to give them this right it must have it.
- apiGroups: [quorate.io]
  resources: [configreplicas]
  verbs: [get, create, update]
{{- end }}
{{- end }}
