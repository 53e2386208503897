{{/* What injection consists of: the mutation and the refusal share it, so that they never disagree. The kubectl plugin says
     the same in Rust (cli/src/inject), word for word; tests/injection holds the two together. */}}

{{/* The CEL variables. */}}
{{- define "quorate.injection.variables" -}}
# What the pod's annotations ask for, without their prefix.
- name: asked
  expression: >-
    object.metadata.?annotations.orValue({})
    .transformMapEntry(name, text, name.startsWith('quorate.io/'), {name.substring(11): string(text)})
# The pod's own word, or else the default.
- name: settings
  expression: >-
    ['path', 'order', 'port', 'user', 'memory-request', 'memory-limit', 'cpu-request', 'cpu-limit', 'volume-size']
    .transformMapEntry(_, name, {name: variables.asked[?name].orValue(string(params.data[name]))})
- name: configs
  expression: variables.asked[?'config'].orValue('').split(',').map(name, name.trim())
- name: initContainers
  expression: object.spec.?initContainers.orValue([])
- name: volumes
  expression: object.spec.?volumes.orValue([])
- name: isInjected
  expression: variables.initContainers.exists(c, c.name == 'quorate-sidecar')
- name: isFirst
  expression: variables.settings['order'] == 'first'
# Those that run when the files are there, apart from the sidecar: what ended before does not need them.
- name: readers
  expression: >-
    variables.initContainers.filter(c, c.name != 'quorate-sidecar'
    && (variables.isFirst || c.?restartPolicy.orValue('') == 'Always')) + object.spec.containers
# The native sidecars that run before this one.
- name: forerunners
  expression: >-
    variables.initContainers.filter(c, c.name != 'quorate-sidecar' && !variables.isFirst
    && c.?restartPolicy.orValue('') == 'Always')
- name: programs
  expression: "['check-exec', 'notify-exec'].filter(name, name in variables.asked)"
- name: tools
  expression: variables.volumes.filter(v, v.name == variables.asked[?'tools-volume'].orValue(''))
- name: badAmounts
  expression: >-
    {{- $memory := "[1-9][0-9]{0,11}(Ki|Mi|Gi|k|M|G)?" }}
    ['memory-request', 'memory-limit'].filter(name, !variables.settings[name].matches('^({{ $memory }})?$'))
    + ['volume-size'].filter(name, !variables.settings[name].matches('^{{ $memory }}$'))
    + ['cpu-request', 'cpu-limit'].filter(name,
    !variables.settings[name].matches('^([1-9][0-9]{0,5}m?|[0-9]{1,3}[.][0-9]{1,3})?$'))
# Why the pod cannot have a sidecar.
- name: problems
  expression: >-
    variables.asked.transformList(name, _, !(name in ['config', 'tools-volume', 'check-http', 'check-exec', 'notify-http',
    'notify-signal', 'notify-exec', 'hook-seconds', 'api', 'revision', 'fencing-token'] || name in variables.settings), name).sort()
    .map(name, 'quorate.io/' + name + ' is no annotation of injection')
    + variables.badAmounts.map(name, 'quorate.io/' + name + ' must be an amount such as '
    + (name.startsWith('cpu-') ? '500m' : '64Mi'))
    + (variables.badAmounts.size() > 0 ? [] :
    [['memory-request', 'memory-limit'], ['cpu-request', 'cpu-limit'], ['volume-size', 'memory-limit']]
    .filter(pair, pair.all(name, variables.settings[name] != '')
    && quantity(variables.settings[pair[0]]).isGreaterThan(quantity(variables.settings[pair[1]])))
    .map(pair, 'quorate.io/' + pair[0] + ' must not be above quorate.io/' + pair[1]))
    + ['check-http', 'notify-http'].filter(name, name in variables.asked
    && !variables.asked[name].matches('^http://[A-Za-z0-9.:_\\[\\]-]+(/[A-Za-z0-9._~:/?&=%+,;@!*-]*)?$'))
    .map(name, 'quorate.io/' + name + ' must be an address such as http://host:8080/path')
    + variables.programs.filter(name, !variables.asked[name].matches('^/tools/[!-~]+( +[!-~]+)*$'))
    .map(name, 'quorate.io/' + name + ' must be a program below /tools, where quorate.io/tools-volume is mounted,'
    + ' and its arguments')
    + [
    variables.configs == [''] ? 'quorate.io/config is missing: it names the configs to mount, such as web,db' :
    !variables.configs.all(name, name.matches('^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$'))
    || variables.configs.distinct().size() < variables.configs.size() ?
    'quorate.io/config must be names of DistributedConfigs, each once, with commas between' : '',

    !variables.settings['path'].matches('^(/[A-Za-z0-9_.-]+)+$') || variables.settings['path'].matches('/[.][.]?(/|$)')
    || ['/dev', '/proc', '/sys', '/tools', '/var/run/secrets/kubernetes.io/serviceaccount']
    .exists(other, (other + '/').startsWith(variables.settings['path'] + '/')
    || (variables.settings['path'] + '/').startsWith(other + '/')) ?
    'quorate.io/path must be an absolute path such as /etc/quorate, and none that the system or the sidecar uses' : '',

    !(variables.settings['order'] in ['first', 'last']) ? 'quorate.io/order must be first or last' : '',

    !variables.settings['port'].matches('^[1-9][0-9]{3,4}$') || int(variables.settings['port']) > 65535
    || int(variables.settings['port']) < 1024 ? 'quorate.io/port must be 1024 to 65535' : '',

    !variables.settings['user'].matches('^[1-9][0-9]{0,8}$') ? 'quorate.io/user must be a UID other than 0' : '',

    !variables.asked[?'hook-seconds'].orValue('10').matches('^([1-9]|[123][0-9]|4[0-5])$') ?
    'quorate.io/hook-seconds must be 1 to 45' : '',

    !('api' in variables.asked) ? '' : !variables.asked['api'].matches('^127[.]0[.]0[.]1:[1-9][0-9]{3,4}$')
    || int(variables.asked['api'].substring(10)) > 65535 || int(variables.asked['api'].substring(10)) < 1024
    || variables.asked['api'].substring(10) == variables.settings['port'] ?
    'quorate.io/api must be 127.0.0.1 and a port from 1024 to 65535 other than quorate.io/port, such as 127.0.0.1:8082' : '',

    variables.asked[?'check-http'].orValue('').matches('^http://(localhost|127[.][0-9.]+|\\[::1\\])(:|/|$)')
    && variables.forerunners.size() == 0 ? 'quorate.io/check-http asks this pod itself, whose containers start only after the'
    + ' first check: let a native sidecar answer that comes before (quorate.io/order: last), or ask another pod' : '',

    !('notify-signal' in variables.asked) ? '' :
    !variables.asked['notify-signal'].matches('^(SIG)?(HUP|INT|QUIT|TERM|USR1|USR2|WINCH):[!-~]+$') ?
    'quorate.io/notify-signal must be a signal and a program such as HUP:nginx' :
    !object.spec.?shareProcessNamespace.orValue(false) ?
    'quorate.io/notify-signal needs shareProcessNamespace: true in the spec of the pod' :
    !variables.readers.exists(c, string(c.?securityContext.?runAsUser
    .orValue(object.spec.?securityContext.?runAsUser.orValue(0))) == variables.settings['user']) ?
    'quorate.io/notify-signal: only a process of the same user can be signalled, and no container has runAsUser '
    + variables.settings['user'] + '; give the UID of the program as quorate.io/user, and as runAsUser of its container' : '',

    'tools-volume' in variables.asked ?
    (variables.tools.size() == 0 ? 'quorate.io/tools-volume names no volume of the pod' :
    variables.isFirst && has(variables.tools[0].emptyDir) ? 'quorate.io/tools-volume is an emptyDir, which is empty when the'
    + ' sidecar starts: fill it in an init container with quorate.io/order: last, or use an image volume' : '') :
    variables.programs.size() > 0 ? 'quorate.io/' + variables.programs[0] + ' needs quorate.io/tools-volume: the image of the'
    + ' sidecar has no programs, so name a volume of the pod with yours, such as an image volume' : '',

    !variables.isInjected && (object.spec.containers.exists(c, c.name == 'quorate-sidecar')
    || variables.volumes.exists(v, v.name in ['quorate', 'quorate-token'])) ?
    'the names quorate-sidecar (of a container), quorate and quorate-token (of volumes) are those of injection: use others' : '',

    !variables.isInjected && variables.readers.exists(c, c.?volumeMounts.orValue([]).exists(m,
    m.mountPath != '/var/run/secrets/kubernetes.io/serviceaccount'
    && (m.mountPath + '/').startsWith(variables.settings['path'] + '/'))) ?
    'a container mounts something at or below ' + variables.settings['path'] + ' already: choose another quorate.io/path' : ''
    ].filter(problem, problem != '')
{{- end }}

{{/* What pods override by annotations of the same names, and what they do not. */}}
{{- define "quorate.injection.parameters" -}}
image: {{ include "quorate.image" (list . .Values.sidecar.image) | quote }}
image-pull-policy: {{ .Values.image.pullPolicy | quote }}
listen: {{ .Values.injection.listen | quote }}
log-format: {{ .Values.injection.log.format | quote }}
{{- range $name, $value := .Values.injection.defaults }}
{{ $name }}: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* Other parameters have another name. An API server goes on with old content of a ConfigMap once it has forgotten all
     policies with parameters (an uninstallation) and gets new ones: it stops to watch, and never begins again
     (Kubernetes 1.37). What it does not know by name it reads. */}}
{{- define "quorate.injection.parametersName" -}}
{{ include "quorate.fullname" . }}-injection-{{ include "quorate.injection.parameters" . | sha256sum | trunc 10 }}
{{- end }}

{{/* Which pods, and who decides: the rest of both policies. */}}
{{- define "quorate.injection.match" -}}
# Without its parameters or with a mistake in here a labelled pod is refused: it never starts without its files.
failurePolicy: Fail
paramKind: {apiVersion: v1, kind: ConfigMap}
matchConstraints:
  objectSelector:
    matchLabels: {quorate.io/inject: "true"}
  resourceRules:
  - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}
{{- end }}

{{- define "quorate.injection.binding" -}}
policyName: {{ include "quorate.fullname" . }}-injection
paramRef:
  name: {{ include "quorate.injection.parametersName" . }}
  namespace: {{ .Release.Namespace }}
  parameterNotFoundAction: Deny
{{- with .Values.operator.namespaces }}
matchResources:
  namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end }}
