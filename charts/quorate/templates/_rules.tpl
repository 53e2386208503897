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
# The pods of spec.selector are counted: listed when a decision needs them. Where pods hold locks, and only there, they are
# watched, so that a lock passes on when kubelet says that its holder has ended.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# The Leases that are locks: their claims are followed, and those of processes that have ended are taken back.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, update]
# Queues are kept in order, so they are followed.
- apiGroups: [quorate.io]
  resources: [distributedqueues, queueitems]
  verbs: [get, list, watch]
# Acknowledged items are dropped when their time is up.
- apiGroups: [quorate.io]
  resources: [queueitems]
  verbs: [delete]
# How many there are is told in the queue's status.
- apiGroups: [quorate.io]
  resources: [distributedqueues/status, queueitems/status]
  verbs: [update]
# (spec.agreement) This cluster's part in what several decide, which is never deleted. `decide` is a right of Quorate's own, asked
# for by its policies: to write the acceptor of a config.
- apiGroups: [quorate.io]
  resources: [acceptors]
  verbs: [get, list, watch, create, update, decide]
# Who the others are, and how they are.
- apiGroups: [quorate.io]
  resources: [clustersets]
  verbs: [get, list]
# That is told in their status.
- apiGroups: [quorate.io]
  resources: [clustersets/status]
  verbs: [update]
{{- if not .Values.operator.namespaces }}
# Two members of a ClusterSet that are one cluster are told by the uid of kube-system. With operator.namespaces, each member's
# kubeconfig needs this right, this cluster's own service account too: docs/quorum.md.
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- end }}
{{- if .Values.nudge.enabled }}
# (nudge.enabled) kubelet looks at once at a plain volume of the head when an annotation of its pod changes. A policy limits
# the patch to that annotation.
- apiGroups: [""]
  resources: [pods]
  verbs: [patch]
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
