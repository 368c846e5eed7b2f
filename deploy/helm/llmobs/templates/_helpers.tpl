{{- define "llmobs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{- /* 48 characters leave room for what is appended: "-postgresql-0" and the like. */ -}}
{{- define "llmobs.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains (include "llmobs.name" .) .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "llmobs.name" .) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "llmobs.selector" -}}
app.kubernetes.io/name: {{ include "llmobs.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llmobs.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "llmobs.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "llmobs.image" -}}
{{- $image := .image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .default $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "llmobs.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "llmobs.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Which database: external, trial or sqlite. What cannot work is refused here, before it is installed. */ -}}
{{- define "llmobs.database" -}}
{{- $own := or .Values.database.url .Values.database.existingSecret.name -}}
{{- if and $own .Values.postgresql.enabled -}}
{{- fail "database and postgresql.enabled exclude each other: which of the two databases is it to be?" -}}
{{- else if and .Values.database.url .Values.database.existingSecret.name -}}
{{- fail "database.url and database.existingSecret exclude each other" -}}
{{- else if $own -}}
external
{{- else if .Values.postgresql.enabled -}}
trial
{{- else -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled -}}
{{- fail "SQLite serves one pod: set database.url, database.existingSecret or postgresql.enabled for more" -}}
{{- end -}}
sqlite
{{- end -}}
{{- end -}}

{{- /* What a pod goes through at its end must fit; the defaults are those of docs/settings.md. */ -}}
{{- define "llmobs.grace" -}}
{{- $drain := 5.0 -}}
{{- if hasKey .Values.config "LLMOBS_DRAIN_SECONDS" -}}
{{- $drain = float64 .Values.config.LLMOBS_DRAIN_SECONDS -}}
{{- end -}}
{{- $request := float64 (default 30 .Values.config.LLMOBS_REQUEST_TIMEOUT_SECONDS) -}}
{{- $needed := int (ceil (addf .Values.preStopSeconds $drain $request 10)) -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is too short: a pod needs %d to end (preStopSeconds, LLMOBS_DRAIN_SECONDS, LLMOBS_REQUEST_TIMEOUT_SECONDS and 10)" $needed) -}}
{{- end -}}
{{- .Values.terminationGracePeriodSeconds -}}
{{- end -}}

{{- define "llmobs.migrate" -}}
{{- if ne .Values.database.migrate "auto" -}}
{{- if and (eq .Values.database.migrate "hook") (ne (include "llmobs.database" .) "external") -}}
{{- fail "database.migrate: hook needs a database that is there before the release: set database.url or database.existingSecret" -}}
{{- end -}}
{{- .Values.database.migrate -}}
{{- else if eq (include "llmobs.database" .) "external" -}}
hook
{{- else -}}
init
{{- end -}}
{{- end -}}

{{- /* Numbers arrive as floating point: toJson writes 268435456 where toString writes 2.68435456e+08. */ -}}
{{- define "llmobs.asString" -}}
{{- if kindIs "string" . -}}{{ . | quote }}{{- else -}}{{ . | toJson | quote }}{{- end -}}
{{- end -}}

{{- /* The environment: the ConfigMap first, what the chart itself must say after it, the operator's own last. */ -}}
{{- define "llmobs.env" -}}
envFrom:
  - configMapRef:
      name: {{ include "llmobs.fullname" .root }}{{ .suffix }}
  {{- if .root.Values.secrets }}
  - secretRef:
      name: {{ include "llmobs.fullname" .root }}{{ .suffix }}
  {{- end }}
  {{- with .root.Values.existingSecret }}
  - secretRef:
      name: {{ . }}
  {{- end }}
  {{- with .root.Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  - name: DATABASE_URL
    {{- $database := include "llmobs.database" .root }}
    {{- if eq $database "sqlite" }}
    value: sqlite:////data/llmobs.db
    {{- else }}
    valueFrom:
      secretKeyRef:
        {{- if .root.Values.database.existingSecret.name }}
        name: {{ .root.Values.database.existingSecret.name }}
        key: {{ .root.Values.database.existingSecret.key }}
        {{- else if eq $database "trial" }}
        name: {{ include "llmobs.fullname" .root }}-postgresql
        key: DATABASE_URL
        {{- else }}
        name: {{ include "llmobs.fullname" .root }}-database{{ .suffix }}
        key: DATABASE_URL
        {{- end }}
    {{- end }}
  {{- with .root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* What llmobs is told, as the data of a ConfigMap. */ -}}
{{- define "llmobs.config" -}}
API_HOST: "0.0.0.0"
API_PORT: {{ .Values.containerPort | toJson | quote }}
LLMOBS_SPOOL_DIR: /data/spool
{{- if .Values.rules }}
LLMOBS_RULES_DIR: /etc/llmobs/rules
{{- end }}
{{- if .Values.policies }}
LLMOBS_POLICIES_DIR: /etc/llmobs/policies
{{- end }}
{{- if include "llmobs.openDoor" . }}
LLMOBS_AUTH_NONE_ANYWHERE: "true"
{{- end }}
{{- with .Values.otlp.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
OTEL_EXPORTER_OTLP_PROTOCOL: {{ $.Values.otlp.protocol | quote }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ include "llmobs.asString" $value }}
{{- end }}
{{- end -}}

{{- /* Callers show no credentials: right where the NetworkPolicy keeps strangers out, and nowhere else unsaid. */ -}}
{{- define "llmobs.openDoor" -}}
{{- $config := .Values.config -}}
{{- if and (eq (default "none" $config.LLMOBS_AUTH_MODE) "none") (not (hasKey $config "LLMOBS_AUTH_NONE_ANYWHERE")) -}}
{{- $closed := and .Values.networkPolicy.enabled .Values.networkPolicy.from (eq .Values.service.type "ClusterIP") -}}
{{- if or (not $closed) .Values.ingress.enabled .Values.httpRoute.enabled -}}
{{- fail "strangers could call it without credentials: set config.LLMOBS_AUTH_MODE to keys (docs/access.md), or config.LLMOBS_AUTH_NONE_ANYWHERE to true if your network keeps them out" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}

{{- define "llmobs.mounts" -}}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
{{- if .Values.rules }}
- name: rules
  mountPath: /etc/llmobs/rules
  readOnly: true
{{- end }}
{{- if .Values.policies }}
- name: policies
  mountPath: /etc/llmobs/policies
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "llmobs.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: HTTP
periodSeconds: {{ .periodSeconds }}
timeoutSeconds: {{ .timeoutSeconds }}
failureThreshold: {{ .failureThreshold }}
{{- end -}}

{{- /* Where pods may run, the same for all of them. */ -}}
{{- define "llmobs.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "llmobs.podTemplate" -}}
metadata:
  labels:
    {{- include "llmobs.labels" . | nindent 4 }}
    app.kubernetes.io/component: service
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A changed setting is a changed pod; rules and policies are read again while running.
    checksum/config: {{ include "llmobs.config" . | sha256sum }}
    checksum/secrets: {{ printf "%s %s" (toJson .Values.secrets) .Values.database.url | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "llmobs.serviceAccountName" . }}
  automountServiceAccountToken: false
  # Or else Kubernetes adds LLMOBS_SERVICE_HOST and the like, and unknown LLMOBS_* settings are refused.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "llmobs.grace" . }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with include "llmobs.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if gt (len .Values.topologySpreadConstraints) 0 }}
  topologySpreadConstraints:
    {{- range .Values.topologySpreadConstraints }}
    - {{ toYaml . | nindent 6 | trim }}
      labelSelector:
        matchLabels:
          {{- include "llmobs.selector" $ | nindent 10 }}
          app.kubernetes.io/component: service
    {{- end }}
  {{- end }}
  {{- if eq (include "llmobs.migrate" .) "init" }}
  initContainers:
    - name: migrate
      image: {{ include "llmobs.image" (dict "image" .Values.image "default" .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [migrate]
      {{- include "llmobs.env" (dict "root" . "suffix" "") | nindent 6 }}
      resources:
        {{- toYaml .Values.migration.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "llmobs.mounts" . | nindent 8 }}
  {{- end }}
  containers:
    - name: llmobs
      image: {{ include "llmobs.image" (dict "image" .Values.image "default" .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      {{- include "llmobs.env" (dict "root" . "suffix" "") | nindent 6 }}
      ports:
        - name: http
          containerPort: {{ .Values.containerPort }}
          protocol: TCP
      startupProbe:
        {{- include "llmobs.probe" .Values.probes.startup | nindent 8 }}
      livenessProbe:
        {{- include "llmobs.probe" .Values.probes.liveness | nindent 8 }}
      readinessProbe:
        {{- include "llmobs.probe" .Values.probes.readiness | nindent 8 }}
      {{- if gt (int .Values.preStopSeconds) 0 }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ .Values.preStopSeconds | toJson | quote }}]
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "llmobs.mounts" . | nindent 8 }}
  volumes:
    {{- if not (and .Values.persistence.enabled (eq .Values.workload "StatefulSet")) }}
    - name: data
      {{- if .Values.persistence.enabled }}
      persistentVolumeClaim:
        claimName: {{ default (include "llmobs.fullname" .) .Values.persistence.existingClaim }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ .Values.persistence.emptyDirLimit }}
      {{- end }}
    {{- end }}
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- if .Values.rules }}
    - name: rules
      configMap:
        name: {{ include "llmobs.fullname" . }}-rules
    {{- end }}
    {{- if .Values.policies }}
    - name: policies
      configMap:
        name: {{ include "llmobs.fullname" . }}-policies
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* The port of a URL, as written or by its scheme. */ -}}
{{- define "llmobs.urlPort" -}}
{{- $parts := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" -}}
{{- if $port -}}{{ $port }}
{{- else if hasPrefix "postgres" $parts.scheme -}}5432
{{- else if eq $parts.scheme "https" -}}443
{{- else -}}80
{{- end -}}
{{- end -}}

{{- /* true, false or auto: auto is where the cluster knows the kind. */ -}}
{{- define "llmobs.wanted" -}}
{{- if eq (toString .wanted) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has .kind -}}yes{{- end -}}
{{- else if eq (toString .wanted) "true" -}}yes
{{- end -}}
{{- end -}}

{{- define "llmobs.claim" -}}
accessModes:
  {{- toYaml (default (list "ReadWriteOnce") .accessModes) | nindent 2 }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}

{{- define "llmobs.rule" -}}
- ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- define "llmobs.dnsRule" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- define "llmobs.databaseRule" -}}
{{- $database := include "llmobs.database" . }}
{{- if eq $database "trial" }}
- ports:
    - port: 5432
      protocol: TCP
  to:
    - podSelector:
        matchLabels:
          {{- include "llmobs.selector" . | nindent 10 }}
          app.kubernetes.io/component: postgresql
{{- else if eq $database "external" }}
{{- $port := .Values.networkPolicy.database.port }}
{{- if not $port }}
{{- $port = ternary (include "llmobs.urlPort" .Values.database.url) "5432" (not (empty .Values.database.url)) }}
{{- end }}
{{ include "llmobs.rule" (dict "ports" (list $port) "to" .Values.networkPolicy.database.to) }}
{{- end }}
{{- end }}
{{- define "llmobs.judgePorts" -}}
{{- $ports := list }}
{{- range .Values.networkPolicy.judge.ports }}{{ $ports = append $ports (toJson .) }}{{ end }}
{{- if not $ports }}
{{- with .Values.secrets.GROQ_API_KEY }}{{ $ports = append $ports (include "llmobs.urlPort" (default "https://api.groq.com" $.Values.config.LLMOBS_GROQ_BASE_URL)) }}{{ end }}
{{- with .Values.config.JUDGE_BASE_URL }}{{ $ports = append $ports (include "llmobs.urlPort" .) }}{{ end }}
{{- with .Values.config.OLLAMA_BASE_URL }}{{ $ports = append $ports (include "llmobs.urlPort" .) }}{{ end }}
{{- end }}
{{- $ports | uniq | join " " }}
{{- end -}}

{{- define "llmobs.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
