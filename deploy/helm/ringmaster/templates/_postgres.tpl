{{/*
A StatefulSet of PostgreSQL and its headless Service: of the nodes (`component` postgresql) and of the ring store. `database`, `user`, `password` (a secret's
name and key), `storage`, `grace`; no replicas where `member`: see backend.yaml.
*/}}
{{- define "ringmaster.postgres" -}}
{{- $root := .root -}}
{{- $port := int .root.Values.ports.postgresql -}}
{{- if hasKey .parameters "port" -}}
{{- fail "postgresql.parameters.port: set ports.postgresql, by which everyone finds it" -}}
{{- end -}}
{{- $values := index .root.Values .component -}}
{{- $name := printf "%s-%s" (include "ringmaster.fullname" .root) .component -}}
{{- $stable := include (.member | ternary "ringmaster.memberLabels" "ringmaster.selectorLabels") . -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "ringmaster.labels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  ports:
    - { name: postgresql, port: {{ $port }}, targetPort: postgresql }
  selector: {{- include "ringmaster.selectorLabels" . | nindent 4 }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- $stable | nindent 4 }}
    {{- include "ringmaster.commonLabels" .root | nindent 4 }}
spec:
  {{- if not .member }}
  replicas: 1
  {{- end }}
  serviceName: {{ $name }}
  podManagementPolicy: Parallel
  updateStrategy:
    type: RollingUpdate
  # A node's volume outlives its pod and its StatefulSet; what becomes of it is the orchestrator's to say.
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: Retain
    whenScaled: Retain
  selector:
    matchLabels: {{- include "ringmaster.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "ringmaster.podLabels" . | nindent 8 }}
      {{- with include "ringmaster.podAnnotations" . }}
      annotations: {{- . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "ringmaster.fullname" .root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .grace }}
      securityContext: {{- include "ringmaster.postgresSecurity" .root | nindent 8 }}
      {{- include "ringmaster.placement" . | nindent 6 }}
      containers:
        - name: postgresql
          image: {{ .root.Values.postgresql.image | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args:
            {{- range $key, $value := .parameters }}
            - -c
            - {{ printf "%s=%v" $key $value | quote }}
            {{- end }}
            - -c
            - port={{ $port }}
          securityContext: {{- include "ringmaster.containerSecurity" . | nindent 12 }}
          env:
            - name: POSTGRES_USER
              value: {{ .user }}
            - name: POSTGRES_DB
              value: {{ .database }}
            - name: POSTGRES_PASSWORD
              valueFrom:
                secretKeyRef: {{- .password | nindent 18 }}
            # A folder below the mount: a fresh file system has lost+found in its root, which initdb refuses.
            - name: PGDATA
              value: /var/lib/postgresql/pgdata
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - { name: postgresql, containerPort: {{ $port }} }
          # Over TCP: while the image initialises a database it listens on its socket only. Recovery after a crash may take long.
          startupProbe: {{- include "ringmaster.postgresProbe" . | nindent 12 }}
            periodSeconds: 1
            timeoutSeconds: 5
            failureThreshold: 900
          readinessProbe: {{- include "ringmaster.postgresProbe" . | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 5
          # Patient: a server that is busy must not be killed into a recovery.
          livenessProbe: {{- include "ringmaster.postgresProbe" . | nindent 12 }}
            periodSeconds: 20
            timeoutSeconds: 10
            failureThreshold: 6
          {{- with $values.resources }}
          resources: {{- toYaml . | nindent 12 }}
          {{- end }}
          volumeMounts:
            - name: data
              mountPath: /var/lib/postgresql
            - name: run
              mountPath: /var/run/postgresql
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: run
          emptyDir: {}
        - name: tmp
          emptyDir: {}
  # Immutable in a StatefulSet: nothing here may depend on a version.
  volumeClaimTemplates:
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: data
        labels: {{- $stable | nindent 10 }}
      spec:
        accessModes: {{- toYaml .accessModes | nindent 10 }}
        {{- with .storage.className }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ .storage.size }}
{{- end -}}

{{- define "ringmaster.postgresProbe" -}}
exec:
  command: [pg_isready, --host=127.0.0.1, --port={{ int .root.Values.ports.postgresql }}, --username={{ .user }}, --dbname={{ .database }}]
{{- end -}}
