{{- define "blackbird.labels" -}}
app.kubernetes.io/name: blackbird
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "blackbird.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "blackbird.secret" -}}
{{ .Values.secret.existing | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{- /* The nodes of the operator's cluster, each by its own name: a client tries them in turn. */}}
{{- define "blackbird.brokers" -}}
{{- if .Values.broker.operator.enabled -}}
{{- $hosts := list -}}
{{- range until (int .Values.broker.operator.replicas) -}}
{{- $hosts = append $hosts (printf "%s-broker-server-%d.%s-broker-nodes" $.Release.Name . $.Release.Name) -}}
{{- end -}}
{{ join "," $hosts }}
{{- else -}}
{{ required "broker.hosts: the broker's host, or hosts with commas between (or broker.operator.enabled)" .Values.broker.hosts }}
{{- end -}}
{{- end }}

{{- define "blackbird.databases" -}}
{{- if .Values.database.operator.enabled -}}
{{ .Release.Name }}-database-rw
{{- else -}}
{{ required "database.hosts: the database's host, or hosts with commas between (or database.operator.enabled)" .Values.database.hosts }}
{{- end -}}
{{- end }}

{{- define "blackbird.from" -}}
{{- /* list of context, variable, secret, key */ -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 2 }}
      key: {{ index . 3 }}
{{- end }}

{{- /* What the operators have made up. */}}
{{- define "blackbird.credentials" -}}
{{- $broker := printf "%s-broker-default-user" .Release.Name -}}
{{- $database := printf "%s-database-app" .Release.Name -}}
{{- if .Values.broker.operator.enabled }}
{{ include "blackbird.from" (list . "RABBITMQ_DEFAULT_USER" $broker "username") }}
{{ include "blackbird.from" (list . "RABBITMQ_DEFAULT_PASS" $broker "password") }}
{{- end }}
{{- if .Values.database.operator.enabled }}
{{ include "blackbird.from" (list . "POSTGRES_USER" $database "username") }}
{{ include "blackbird.from" (list . "POSTGRES_PASSWORD" $database "password") }}
{{- end }}
{{- end }}

{{- define "blackbird.pod-security" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "blackbird.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /*
A pod: list of context, component, script, lines of its own environment, more volume mounts.
What restarts it is its own event loop standing still. A server that is away is waited for: a restart brings none back.
*/}}
{{- define "blackbird.pod" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
metadata:
  labels:
    {{- include "blackbird.labels" $ | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
  annotations:
    checksum/settings: {{ include (print $.Template.BasePath "/settings.yaml") $ | sha256sum }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  # A service ends within 5 s.
  terminationGracePeriodSeconds: 10
  securityContext:
    {{- include "blackbird.pod-security" $ | nindent 4 }}
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  # One of a kind a node, as far as there are nodes.
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "blackbird.labels" $ | nindent 10 }}
          app.kubernetes.io/component: {{ $component }}
  containers:
    - name: {{ $component }}
      image: {{ include "blackbird.image" $ }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      args: [{{ index . 2 }}]
      envFrom:
        - configMapRef:
            name: {{ $.Release.Name }}-settings
        - secretRef:
            name: {{ include "blackbird.secret" $ }}
            optional: true
      env:
        - name: ALIVE_FILE
          value: /tmp/alive
        {{- include "blackbird.credentials" $ | nindent 8 }}
        {{- index . 3 | nindent 8 }}
      securityContext:
        {{- include "blackbird.container-security" $ | nindent 8 }}
      startupProbe:
        exec:
          command: [/app/deploy/image/alive]
        periodSeconds: 2
        failureThreshold: 30
      livenessProbe:
        exec:
          command: [/app/deploy/image/alive]
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      {{- if eq $component "collector" }}
      readinessProbe:
        # Not /health, which is about the whole system: the API takes subscriptions while something else is down.
        httpGet:
          path: /subscriptions
          port: http
        periodSeconds: 5
      {{- end }}
      {{- with index (dict "collector" 8000 "monitor" 8001) $component }}
      ports:
        - name: http
          containerPort: {{ . }}
      {{- end }}
      resources:
        {{- toYaml (index $.Values.resources $component) | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- index . 4 | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir: {}
{{- end }}
