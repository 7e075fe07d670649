{{- define "meshhook.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* At most 40 characters, to leave room for a suffix. */}}
{{- define "meshhook.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "meshhook.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "meshhook.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* The labels of an object: (list $ "component"). */}}
{{- define "meshhook.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: meshhook
{{ include "meshhook.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The labels of a pod, without those that change with the chart's version. */}}
{{- define "meshhook.podLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: meshhook
{{ include "meshhook.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "meshhook.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "meshhook.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "meshhook.image" -}}
{{ include "meshhook.imageOf" (list . .Values.image) }}
{{- end }}

{{- /* The image that a section of the values names: (list $ .Values.image). */}}
{{- define "meshhook.imageOf" -}}
{{- with index . 1 -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (index $ 0).Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "meshhook.serviceAccountName" -}}
{{- if .Values.operator.serviceAccount.create }}
{{- .Values.operator.serviceAccount.name | default (printf "%s-operator" (include "meshhook.fullname" .)) }}
{{- else }}
{{- .Values.operator.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "meshhook.isEmbedded" -}}
{{- if not .Values.database.existingSecret }}true{{ end }}
{{- end }}

{{- /* The Secrets with the database URLs of the workers, the operator, the owner and `helm test`. */}}
{{- define "meshhook.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database-workers" (include "meshhook.fullname" .)) }}
{{- end }}

{{- define "meshhook.databaseKey" -}}
{{- if include "meshhook.isEmbedded" . }}uri{{ else }}{{ .Values.database.key }}{{ end }}
{{- end }}

{{- /* Whether the operator has a role of its own. */}}
{{- define "meshhook.hasRoles" -}}
{{- if or .Values.database.operatorExistingSecret (include "meshhook.isEmbedded" .) }}true{{ end }}
{{- end }}

{{- define "meshhook.operatorSecret" -}}
{{- if include "meshhook.isEmbedded" . }}
{{- printf "%s-database-operator" (include "meshhook.fullname" .) }}
{{- else }}
{{- .Values.database.operatorExistingSecret | default (include "meshhook.databaseSecret" .) }}
{{- end }}
{{- end }}

{{- define "meshhook.operatorKey" -}}
{{- if include "meshhook.isEmbedded" . }}uri
{{- else if .Values.database.operatorExistingSecret }}{{ .Values.database.operatorKey }}
{{- else }}{{ .Values.database.key }}
{{- end }}
{{- end }}

{{- define "meshhook.ownerSecret" -}}
{{- if include "meshhook.isEmbedded" . }}
{{- printf "%s-database" (include "meshhook.fullname" .) }}
{{- else }}
{{- .Values.migrations.existingSecret | default (include "meshhook.databaseSecret" .) }}
{{- end }}
{{- end }}

{{- define "meshhook.ownerKey" -}}
{{- if include "meshhook.isEmbedded" . }}uri
{{- else if .Values.migrations.existingSecret }}{{ .Values.migrations.key }}
{{- else }}{{ .Values.database.key }}
{{- end }}
{{- end }}

{{- /* The variable with the URL for `helm test`. With separate roles, that of the workers is not enough. */}}
{{- define "meshhook.testSecret" -}}
{{- if .Values.test.existingSecret }}{{ .Values.test.existingSecret }}
{{- else if include "meshhook.hasRoles" . }}{{ include "meshhook.ownerSecret" . }}
{{- else }}{{ include "meshhook.databaseSecret" . }}{{ end }}
{{- end }}

{{- define "meshhook.testKey" -}}
{{- if .Values.test.existingSecret }}{{ .Values.test.key }}
{{- else if include "meshhook.hasRoles" . }}{{ include "meshhook.ownerKey" . }}
{{- else }}{{ include "meshhook.databaseKey" . }}{{ end }}
{{- end }}

{{- /* The Secret with the URL of the console. */}}
{{- define "meshhook.consoleSecret" -}}
{{- if .Values.console.existingSecret }}{{ .Values.console.existingSecret }}
{{- else if include "meshhook.isEmbedded" . }}{{ include "meshhook.fullname" . }}-database-{{ ternary "reader" "oncall" .Values.console.readOnly }}
{{- else }}{{ include "meshhook.databaseSecret" . }}{{ end }}
{{- end }}

{{- define "meshhook.consoleKey" -}}
{{- if .Values.console.existingSecret }}{{ .Values.console.key }}
{{- else if include "meshhook.isEmbedded" . }}uri
{{- else }}{{ include "meshhook.databaseKey" . }}{{ end }}
{{- end }}

{{- /* `database` of a JobQueue of the release. */}}
{{- define "meshhook.queueDatabase" -}}
secretRef:
  name: {{ include "meshhook.databaseSecret" . }}
  key: {{ include "meshhook.databaseKey" . }}
{{- if include "meshhook.hasRoles" . }}
operatorSecretRef:
  name: {{ include "meshhook.operatorSecret" . }}
  key: {{ include "meshhook.operatorKey" . }}
{{- end }}
pooled: {{ .Values.database.pooled }}
{{- end }}

{{- /* The CA certificate of the database, at /database/ca.crt. */}}
{{- define "meshhook.caVolume" -}}
name: database-ca
secret:
  secretName: {{ .Values.database.caSecret }}
  items: [{key: ca.crt, path: ca.crt}]
{{- end }}

{{- define "meshhook.caMount" -}}
name: database-ca
mountPath: /database
readOnly: true
{{- end }}

{{- /* What the pods of the chart have in common; values can change that of the operator. */}}
{{- define "meshhook.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "meshhook.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Whether admission policies check JobQueues. */}}
{{- define "meshhook.hasPolicy" -}}
{{- if and .Values.policy.enabled (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}true{{ end }}
{{- end }}

{{- /* A list of strings as YAML with CEL. An empty list needs an explicit type. */}}
{{- define "meshhook.celList" -}}
{{- if . }}{{ toJson . | quote }}{{ else }}{{ "[''].filter(each, false)" | quote }}{{ end }}
{{- end }}

{{- /* Secrets that JobQueues may name, as JSON, including those of the release. None means any. */}}
{{- define "meshhook.policySecrets" -}}
{{- $names := .Values.policy.allowedSecrets }}
{{- if $names }}
{{- range include "meshhook.databaseSecrets" . | fromJsonArray }}
{{- $names = append $names (printf "%s/%s" $.Release.Namespace .) }}
{{- end }}
{{- with .Values.database.caSecret }}{{ $names = append $names . }}{{ end }}
{{- range .Values.imagePullSecrets }}{{ $names = append $names .name }}{{ end }}
{{- end }}
{{- toJson (uniq $names) }}
{{- end }}

{{- /* Secrets that workers must not have, as JSON: namespace/name of those of owner and operator. */}}
{{- define "meshhook.ownersSecrets" -}}
{{- include "meshhook.othersSecrets" (list . (list (include "meshhook.ownerSecret" .))) }}
{{- end }}

{{- define "meshhook.reservedSecrets" -}}
{{- include "meshhook.othersSecrets" (list . (list (include "meshhook.ownerSecret" .) (include "meshhook.operatorSecret" .))) }}
{{- end }}

{{- /* Those of these names that are not the workers', in each namespace where queues may be. */}}
{{- define "meshhook.othersSecrets" -}}
{{- $root := index . 0 }}
{{- $found := list }}
{{- range $name := without (index . 1) (include "meshhook.databaseSecret" $root) | uniq }}
{{- range prepend $root.Values.operator.watchNamespaces $root.Release.Namespace | uniq }}
{{- $found = append $found (printf "%s/%s" . $name) }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- /* The Secrets with the URLs that the operator reads for the queues of the release, as JSON. */}}
{{- define "meshhook.databaseSecrets" -}}
{{- toJson (list (include "meshhook.databaseSecret" .) (include "meshhook.operatorSecret" .) | uniq) }}
{{- end }}

{{- /* The connection to a database, as NetworkPolicy rules: name servers and the database itself. */}}
{{- define "meshhook.databaseEgress" -}}
{{- with .Values.networkPolicy -}}
# Name servers; those of OpenShift listen on 5353.
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
    - port: 5353
      protocol: UDP
    - port: 5353
      protocol: TCP
  {{- with .nameServerTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
# Databases.
- ports:
    {{- range .databasePorts }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .databaseTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The pod in which people run the command line, as JSON for `kubectl run --overrides`. */}}
{{- /* Whether an object of the Prometheus operator is installed: (list $ "ServiceMonitor" "serviceMonitor"). */}}
{{- define "meshhook.isMonitored" -}}
{{- $root := index . 0 -}}
{{- $monitoring := $root.Values.monitoring -}}
{{- $on := $monitoring.enabled -}}
{{- if kindIs "string" $on -}}
{{- $on = $root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (index . 1)) -}}
{{- end -}}
{{- if and $on (get $monitoring (index . 2)).enabled -}}
true
{{- end -}}
{{- end }}

{{- /* The labels of an object of the Prometheus operator: (list $ "component" "serviceMonitor"). */}}
{{- define "meshhook.monitoringLabels" -}}
{{- $root := index . 0 -}}
{{- $monitoring := $root.Values.monitoring -}}
{{- include "meshhook.labels" (list $root (index . 1)) }}
{{- with merge (dict) (get $monitoring (index . 2)).labels $monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The groups of rules, as YAML: those of files/alerts without the alerts that are left out. */}}
{{- define "meshhook.alertGroups" -}}
{{- $values := .Values.monitoring.prometheusRule }}
{{- $groups := list }}
{{- range $path, $_ := .Files.Glob "files/alerts/*.yaml" }}
{{- range ($.Files.Get $path | fromYaml).groups }}
{{- $rules := list }}
{{- range .rules }}
{{- if not (has .alert $values.disabledAlerts) }}
{{- if .alert }}
{{- $_ := set . "labels" (merge (dict) $values.alertLabels (.labels | default dict)) }}
{{- end }}
{{- $rules = append $rules . }}
{{- end }}
{{- end }}
{{- if $rules }}
{{- $groups = append $groups (merge (dict "rules" $rules) .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $groups }}
{{- fail "files/alerts has no rules: the chart was packaged without the files behind its symlinks" }}
{{- end }}
{{- toYaml $groups }}
{{- end }}

{{- /* What Prometheus' own configuration needs to find operator and workers. */}}
{{- define "meshhook.scrapeConfigs" -}}
{{- $operator := dict "job" "meshhook-operator" "namespaces" (list .Release.Namespace) "interval" .Values.monitoring.serviceMonitor.interval }}
{{- $_ := set $operator "labels" (dict "app_kubernetes_io_instance" .Release.Name "app_kubernetes_io_component" "operator") }}
{{- $workers := dict "job" "meshhook-workers" "namespaces" .Values.operator.watchNamespaces "interval" .Values.monitoring.podMonitor.interval }}
{{- $_ := set $workers "labels" (dict "app_kubernetes_io_name" "meshhook-worker") }}
{{- range list $operator $workers }}
- job_name: {{ .job }}
  scrape_interval: {{ .interval }}
  kubernetes_sd_configs:
    - role: pod
      {{- with .namespaces }}
      namespaces:
        names:
          {{- toYaml . | nindent 10 }}
      {{- end }}
  relabel_configs:
    {{- range $label, $value := .labels }}
    - source_labels: [__meta_kubernetes_pod_label_{{ $label }}]
      regex: {{ regexQuoteMeta $value | quote }}
      action: keep
    {{- end }}
    - source_labels: [__meta_kubernetes_pod_container_port_name]
      regex: metrics
      action: keep
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_pod_name]
      target_label: pod
    - source_labels: [__meta_kubernetes_pod_container_name]
      target_label: container
{{- end }}
{{- end }}


{{- /* Not empty if some queue has schedules, which its workers fire: that takes the right to enqueue. */}}
{{- define "meshhook.hasSchedules" -}}
{{- range .Values.queues }}{{ if .schedules }}true{{ end }}{{ end }}
{{- end }}
