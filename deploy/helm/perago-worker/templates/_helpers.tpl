{{- define "worker.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "worker.selector" -}}
app.kubernetes.io/name: perago-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "worker.labels" -}}
{{ include "worker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "worker.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Seconds of a duration as worker.toml has it ("1h30m", "500ms", 90), rounded up. */}}
{{- define "worker.seconds" -}}
{{- $total := 0.0 -}}
{{- $text := toString . | replace " " "" -}}
{{- if regexMatch "^[0-9.]+$" $text -}}
{{- $total = float64 $text -}}
{{- else -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h|d)" $text -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $number := float64 (trimSuffix $unit .) -}}
{{- $total = addf $total (mulf $number (get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit)) -}}
{{- end -}}
{{- end -}}
{{- ceil $total | int64 -}}
{{- end }}

{{/* What an ending worker may need: the drain, then publishing, then handing back. */}}
{{- define "worker.neededGrace" -}}
{{- $drain := include "worker.seconds" .Values.config.worker.drain_timeout | int64 -}}
{{- $publish := add (include "worker.seconds" .Values.config.publish.merge_timeout) (include "worker.seconds" .Values.config.publish.completion_timeout) -}}
{{- if not (kindIs "invalid" .Values.publishBudgetSeconds) -}}
{{- $publish = int64 .Values.publishBudgetSeconds -}}
{{- end -}}
{{- max (add $drain $publish 15) (add (max $drain 30) 35) -}}
{{- end }}

{{- define "worker.grace" -}}
{{- $needed := include "worker.neededGrace" . | int64 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- $needed -}}
{{- else if lt (int64 $given) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but draining (config.worker.drain_timeout), publishing and handing back can take %d seconds: raise it to that, leave it out, or shorten drain_timeout." (int64 $given) $needed) -}}
{{- else -}}
{{- int64 $given -}}
{{- end -}}
{{- end }}

{{/* One section of worker.toml: strings, numbers, booleans and lists are the same in JSON. */}}
{{- define "worker.section" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "worker.toml" -}}
{{- $config := .Values.config -}}
{{- if not $config.worker.modules }}{{ fail "config.worker.modules is empty: name the modules with tasks, such as [\"shop\"]." }}{{ end -}}
{{- if not $config.queue.url }}{{ fail "config.queue.url is empty: name the address of Conductor, such as http://conductor:8080/api." }}{{ end -}}
{{- if not $config.store.endpoint }}{{ fail "config.store.endpoint is empty: name the address of lakeFS, such as http://lakefs:8000." }}{{ end -}}
{{- $queue := dict "kind" "conductor" -}}
{{- if .Values.secrets.conductor -}}
{{- $queue = merge $queue (dict "auth_key_id_file" "/etc/perago-worker/conductor/key-id" "auth_key_secret_file" "/etc/perago-worker/conductor/key-secret") -}}
{{- end -}}
{{- $store := dict "kind" "lakefs" "access_key_id_file" "/etc/perago-worker/lakefs/access-key-id" "secret_access_key_file" "/etc/perago-worker/lakefs/secret-access-key" -}}
[worker]
{{- include "worker.section" $config.worker }}

[queue]
{{- include "worker.section" (merge (deepCopy $config.queue) $queue) }}

[store]
{{- include "worker.section" (merge (deepCopy $config.store) $store) }}

[workspace]
{{- include "worker.section" (merge (dict "root" "/var/lib/perago-worker") $config.workspace) }}

[publish]
{{- include "worker.section" $config.publish }}

[http]
listen = "0.0.0.0:{{ .Values.port }}"

[logging]
{{- include "worker.section" $config.logging }}
{{- range $task, $settings := $config.tasks }}

[tasks.{{ toJson $task }}]
{{- include "worker.section" $settings }}
{{- end }}
{{- end }}

{{/* Port of an address. */}}
{{- define "worker.port" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end }}

{{- define "worker.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "worker.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "worker.mounts" -}}
- name: config
  mountPath: /etc/perago-worker/worker.toml
  subPath: worker.toml
  readOnly: true
- name: lakefs
  mountPath: /etc/perago-worker/lakefs
  readOnly: true
{{- if .Values.secrets.conductor }}
- name: conductor
  mountPath: /etc/perago-worker/conductor
  readOnly: true
{{- end }}
- name: workspaces
  mountPath: /var/lib/perago-worker
- name: tmp
  mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "worker.volumes" -}}
- name: config
  configMap:
    name: {{ include "worker.name" . }}
- name: lakefs
  secret:
    secretName: {{ .Values.secrets.lakefs }}
    defaultMode: 0440
{{- if .Values.secrets.conductor }}
- name: conductor
  secret:
    secretName: {{ .Values.secrets.conductor }}
    defaultMode: 0440
{{- end }}
- name: workspaces
  {{- if .Values.workspace.volume }}
  {{- toYaml .Values.workspace.volume | nindent 2 }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.workspace.size }}
  {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
