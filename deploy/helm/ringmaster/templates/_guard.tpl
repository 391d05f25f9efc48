{{/*
Two policies and their bindings from one list of rules: one denies, one only warns and audits.

  no override   denies where a rule is broken          the other holds its tongue
  override      denies nothing                         warns, and writes an audit annotation, where a rule is broken

`name`, `constraints` (matchConstraints), `matchConditions`, `bindings` (a list of: name, an addition to the policy's; notFound, what holds without a
RingCluster, Allow or Deny; resources, its matchResources), `variables` (name, is) and `rules` (rule: CEL; says: a CEL string).
*/}}
{{- define "ringmaster.guard" -}}
{{- $call := . -}}
{{- $root := .root -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $cluster := include "ringmaster.cluster" .root -}}
{{- $full := include "ringmaster.fullname" .root -}}
{{- range $mode := list "deny" "warn" }}
{{- $policy := printf "%s.%s.%s%s" $full $namespace $call.name (eq $mode "deny" | ternary "" ".overridden") }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ $policy }}
  labels: {{- include "ringmaster.labels" (dict "root" $root "component" "guard") | nindent 4 }}
spec:
  failurePolicy: {{ eq $mode "deny" | ternary "Fail" "Ignore" }}
  paramKind: { apiVersion: ringmaster.dev/v1alpha1, kind: RingCluster }
  matchConstraints: {{- $call.constraints | nindent 4 }}
  {{- with $call.matchConditions }}
  matchConditions: {{- . | nindent 4 }}
  {{- end }}
  variables:
    - name: why
      expression: >-
        params.?metadata.annotations[?'ringmaster.dev/unsafe-override'].orValue('').replace('\n', ' ')
    - name: overridden
      expression: variables.why != ''
    - name: shortWhy
      expression: "variables.why.size() <= 200 ? variables.why : variables.why.substring(0, 200)"
    - name: worker
      expression: request.userInfo.username == 'system:serviceaccount:{{ $namespace }}:{{ $full }}-worker'
    - name: operator
      expression: request.userInfo.username == 'system:serviceaccount:{{ $namespace }}:{{ $full }}-operator'
    - name: trusted
      expression: request.userInfo.username in [{{ range $i, $user := $root.Values.guard.trustedUsers }}{{ if $i }}, {{ end }}'{{ $user }}'{{ end }}]
    {{- range $call.variables }}
    - name: {{ .name }}
      expression: >-
        {{- .is | nindent 8 }}
    {{- end }}
  validations:
    {{- range $call.rules }}
    - expression: >-
        {{ eq $mode "deny" | ternary "variables.overridden" "!variables.overridden" }} || variables.trusted
        || ({{ .rule | trim }})
      message: {{ eq $mode "deny" | ternary "Ringmaster's guard refuses this: events would be lost" "Ringmaster's guard is overridden: events may be lost" | quote }}
      messageExpression: >-
        {{ if eq $mode "warn" }}'Ringmaster: the guard is overridden ("' + variables.shortWhy + '"), this was let through: ' + {{ end }}{{ .says | trim }}
      reason: Forbidden
    {{- end }}
  {{- if eq $mode "warn" }}
  auditAnnotations:
    - key: guard-overridden
      valueExpression: variables.shortWhy
  {{- end }}
{{- range $binding := $call.bindings | default (list (dict "name" "" "notFound" "Allow")) }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $policy }}{{ $binding.name }}
  labels: {{- include "ringmaster.labels" (dict "root" $root "component" "guard") | nindent 4 }}
spec:
  policyName: {{ $policy }}
  paramRef:
    name: {{ $cluster | quote }}
    namespace: {{ $namespace }}
    # What only warns has nothing to say without a RingCluster.
    parameterNotFoundAction: {{ eq $mode "deny" | ternary $binding.notFound "Allow" }}
  {{- with $binding.resources }}
  matchResources: {{- . | nindent 4 }}
  {{- end }}
  validationActions: {{ eq $mode "deny" | ternary "[Deny]" "[Warn, Audit]" }}
{{- end }}
{{- end }}
{{- end -}}
