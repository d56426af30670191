{{- /* Labels of one component: what selectors match, and what is told beside. */ -}}
{{- define "anneal.selector" -}}
app.kubernetes.io/name: anneal
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "anneal.labels" -}}
{{ include "anneal.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- /* What every pod of ours is held to. */ -}}
{{- define "anneal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "anneal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* A variable from the secret with the environment. */ -}}
{{- define "anneal.secret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .root.Values.secrets.environment }}, key: {{ .key }}}}
{{- end }}

{{- define "anneal.blobs" -}}
- name: ANNEAL_BLOBS_URL
  value: {{ .Values.blobs.url | quote }}
{{- range $name, $value := .Values.blobs.environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{ include "anneal.secret" (dict "root" . "name" "AWS_ACCESS_KEY_ID" "key" "AWS_ACCESS_KEY_ID") }}
{{ include "anneal.secret" (dict "root" . "name" "AWS_SECRET_ACCESS_KEY" "key" "AWS_SECRET_ACCESS_KEY") }}
{{- end }}

{{- define "anneal.bus" -}}
{{ include "anneal.secret" (dict "root" . "name" "ANNEAL_NATS_URL" "key" "ANNEAL_NATS_URL") }}
- name: ANNEAL_NATS_REPLICAS
  value: {{ .Values.nats.replicas | quote }}
{{- end }}

{{- /* Where a service is, by its short name: all its pods, ready or not. */ -}}
{{- define "anneal.address" -}}
{{ .component }}:{{ (index .root.Values.services .component).port }}
{{- end }}
