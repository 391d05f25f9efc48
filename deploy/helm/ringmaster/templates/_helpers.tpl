{{/* Names, labels, addresses and the pieces that all pods share. Everything takes the root context, or a dict with it as `root`. */}}

{{/*
What all names begin with. At most 40 characters: a StatefulSet's name, an ordinal and a hash must fit into a label of 63.
*/}}
{{- define "ringmaster.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "ringmaster" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-ringmaster" (.Release.Name | trunc 29 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "ringmaster.cluster" -}}
{{- .Values.clusterId | default (include "ringmaster.fullname" .) -}}
{{- end -}}

{{- define "ringmaster.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* Wanted nodes: empty where nobody says. Both values set and different is refused: one of them would be a surprise. */}}
{{- define "ringmaster.nodes" -}}
{{- $own := .Values.backendReplicaCount -}}
{{- $global := (.Values.global | default dict).backendReplicaCount -}}
{{- if and (not (kindIs "invalid" $own)) (not (kindIs "invalid" $global)) (ne (int $own) (int $global)) -}}
{{- fail (printf "backendReplicaCount is %d and global.backendReplicaCount is %d: set one of them, or both to the same" (int $own) (int $global)) -}}
{{- end -}}
{{- $nodes := kindIs "invalid" $own | ternary $global $own -}}
{{- if and .Values.backendAutoscaling.enabled (not (kindIs "invalid" $nodes)) -}}
{{- fail "backendReplicaCount and backendAutoscaling.enabled exclude each other: with autoscaling leave backendReplicaCount empty" -}}
{{- end -}}
{{- if not (kindIs "invalid" $nodes) -}}
{{- if gt (int $nodes) (int .Values.partitionCount) -}}
{{- fail (printf "backendReplicaCount is %d, more than partitionCount (%d): a node would own nothing" (int $nodes) (int .Values.partitionCount)) -}}
{{- end -}}
{{- int $nodes -}}
{{- end -}}
{{- end -}}

{{/* --- Labels --- */}}

{{/* Never changing ones: what selectors and volume claims have. `component` names the part. */}}
{{- define "ringmaster.selectorLabels" -}}
app.kubernetes.io/name: ringmaster
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Of nodes' StatefulSets, pods and volume claims also the cluster they are of. */}}
{{- define "ringmaster.memberLabels" -}}
{{ include "ringmaster.selectorLabels" . }}
ringmaster.dev/cluster: {{ include "ringmaster.cluster" .root | quote }}
{{- end -}}

{{- define "ringmaster.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: ringmaster
{{- end -}}

{{- define "ringmaster.labels" -}}
{{ include "ringmaster.selectorLabels" . }}
{{ include "ringmaster.commonLabels" .root }}
{{- end -}}

{{/* Labels of a pod template. A label of the chart's own wins over one of podLabels. */}}
{{- define "ringmaster.podLabels" -}}
{{- $own := include (.member | ternary "ringmaster.memberLabels" "ringmaster.selectorLabels") . | fromYaml -}}
{{- $more := (index .root.Values .component).podLabels -}}
{{- toYaml (merge $own $more) -}}
{{- end -}}

{{/* --- Secrets --- */}}

{{/* `auth` of one secret: gives "name key" of where it is. */}}
{{- define "ringmaster.secretRef" -}}
{{- $auth := index .root.Values.auth .name -}}
{{- if $auth.existingSecret -}}
name: {{ $auth.existingSecret }}
key: {{ $auth.key }}
{{- else -}}
name: {{ include "ringmaster.fullname" .root }}
key: {{ .key }}
{{- end -}}
{{- end -}}
{{- define "ringmaster.databasePassword" -}}{{ include "ringmaster.secretRef" (dict "root" . "name" "databasePassword" "key" "database-password") }}{{- end -}}
{{- define "ringmaster.ringstorePassword" -}}{{ include "ringmaster.secretRef" (dict "root" . "name" "ringstorePassword" "key" "ringstore-password") }}{{- end -}}
{{- define "ringmaster.controlToken" -}}{{ include "ringmaster.secretRef" (dict "root" . "name" "controlToken" "key" "control-token") }}{{- end -}}
{{- define "ringmaster.apiToken" -}}{{ include "ringmaster.secretRef" (dict "root" . "name" "apiToken" "key" "api-token") }}{{- end -}}

{{- define "ringmaster.ringstoreIsOurs" -}}
{{- if not (or .Values.ringstore.url .Values.ringstore.existingSecret) -}}true{{- end -}}
{{- end -}}

{{/* RINGMASTER_RINGSTORE_URL, and before it what it refers to. By the pod's own name: it does not change, and is there before the pod is ready. */}}
{{- define "ringmaster.ringstoreEnv" -}}
{{- if include "ringmaster.ringstoreIsOurs" . -}}
- name: RINGSTORE_PASSWORD
  valueFrom:
    secretKeyRef: {{- include "ringmaster.ringstorePassword" . | nindent 6 }}
- name: RINGMASTER_RINGSTORE_URL
  value: {{ printf "postgres://ringmaster:$(RINGSTORE_PASSWORD)@%[1]s-0.%[1]s.%[2]s.svc:%[3]d/ringstore" (printf "%s-ringstore" (include "ringmaster.fullname" .)) .Release.Namespace (int .Values.ports.postgresql) | quote }}
{{- else -}}
- name: RINGMASTER_RINGSTORE_URL
  valueFrom:
    secretKeyRef:
      {{- if .Values.ringstore.existingSecret }}
      name: {{ .Values.ringstore.existingSecret }}
      key: {{ .Values.ringstore.urlKey }}
      {{- else }}
      name: {{ include "ringmaster.fullname" . }}
      key: ringstore-url
      {{- end }}
{{- end -}}
{{- end -}}

{{/* --- Temporal --- */}}

{{- define "ringmaster.temporalAddress" -}}
{{- if and .Values.temporal.address .Values.temporal.devServer.enabled -}}
{{- fail "temporal.address and temporal.devServer.enabled exclude each other" -}}
{{- end -}}
{{- if .Values.temporal.devServer.enabled -}}
{{- printf "%s-temporal.%s.svc:7233" (include "ringmaster.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- .Values.temporal.address -}}
{{- end -}}
{{- end -}}

{{- define "ringmaster.temporalEnv" -}}
{{- $temporal := .Values.temporal -}}
{{- with include "ringmaster.temporalAddress" . -}}
- name: TEMPORAL_ADDRESS
  value: {{ . | quote }}
{{ end -}}
- name: TEMPORAL_NAMESPACE
  value: {{ $temporal.namespace | quote }}
- name: RINGMASTER_TASK_QUEUE
  value: {{ $temporal.taskQueue | quote }}
{{- if $temporal.tls.enabled }}
- name: TEMPORAL_TLS
  value: "true"
{{- with $temporal.tls.serverName }}
- name: TEMPORAL_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if $temporal.tls.existingSecret }}
- name: TEMPORAL_TLS_SERVER_CA_CERT_PATH
  value: /etc/ringmaster/temporal/ca.crt
{{- if $temporal.tls.clientCertificate }}
- name: TEMPORAL_TLS_CLIENT_CERT_PATH
  value: /etc/ringmaster/temporal/tls.crt
- name: TEMPORAL_TLS_CLIENT_KEY_PATH
  value: /etc/ringmaster/temporal/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- with $temporal.apiKey.existingSecret }}
- name: TEMPORAL_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $temporal.apiKey.key }}
{{- end }}
{{- end -}}

{{- define "ringmaster.temporalMounts" -}}
{{- if and .Values.temporal.tls.enabled .Values.temporal.tls.existingSecret -}}
- name: temporal-tls
  mountPath: /etc/ringmaster/temporal
  readOnly: true
{{- end -}}
{{- end -}}
{{- define "ringmaster.temporalVolumes" -}}
{{- if and .Values.temporal.tls.enabled .Values.temporal.tls.existingSecret -}}
- name: temporal-tls
  secret:
    secretName: {{ .Values.temporal.tls.existingSecret }}
    defaultMode: 0440
{{- end -}}
{{- end -}}

{{/* --- Pods --- */}}

{{/* Our own image runs as this user; no user of that id need be in it. */}}
{{- define "ringmaster.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}
{{- define "ringmaster.postgresSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.postgresql.runAsUser }}
runAsGroup: {{ .Values.postgresql.runAsUser }}
fsGroup: {{ .Values.postgresql.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}
{{- define "ringmaster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* How a pod is placed: of `component`. `spread`: over machines and zones where the values say nothing. */}}
{{- define "ringmaster.placement" -}}
{{- $own := index .root.Values .component -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $own.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml $own.topologySpreadConstraints | nindent 2 }}
{{- else if .spread }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "ringmaster.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What each container of ours has: `entry` is the folder of its main.js. */}}
{{- define "ringmaster.container" -}}
image: {{ include "ringmaster.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
workingDir: /app
command: [node]
args: [{{ range .nodeFlags }}{{ . | quote }}, {{ end }}{{ printf "dist/%s/main.js" .entry }}]
securityContext: {{- include "ringmaster.containerSecurity" . | nindent 2 }}
{{- end -}}

{{- define "ringmaster.extraEnv" -}}
- name: RINGMASTER_LOG_LEVEL
  value: {{ .root.Values.logLevel }}
{{- with (index .root.Values .component).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Pods whose environment comes from a value start again when it changes. */}}
{{- define "ringmaster.podAnnotations" -}}
{{- $more := (index .root.Values .component).podAnnotations -}}
{{- $own := .annotations | default dict -}}
{{- if and .root.Values.ringstore.url (ne .component "postgresql") (ne .component "ringstore") -}}
{{- $own = merge (dict "ringmaster.dev/ringstore-url-hash" (sha256sum .root.Values.ringstore.url | trunc 16)) $own -}}
{{- end -}}
{{- with merge $own $more -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}
