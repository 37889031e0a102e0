{{/* What everything of a release is called. */}}
{{- define "twinshore.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which things are found. They never change. */}}
{{- define "twinshore.operator.selector" -}}
app.kubernetes.io/name: twinshore
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of everything. */}}
{{- define "twinshore.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: twinshore
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "twinshore.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $name }}{{ end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "twinshore.operator.account" -}}
{{- .Values.operator.serviceAccount.name | default (printf "%s-operator" (include "twinshore.fullname" .)) -}}
{{- end -}}

{{/* An account as NAMESPACE/NAME. */}}
{{- define "twinshore.qualified" -}}
{{- if contains "/" .name -}}{{ .name }}{{- else -}}{{ printf "%s/%s" .namespace .name }}{{- end -}}
{{- end -}}

{{- define "twinshore.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "twinshore.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
What the operator may do with the objects of volumes, in each namespace that it looks after. Server-side apply is `patch`, and `create`
for what is not there yet.
*/}}
{{- define "twinshore.operator.rules" -}}
- apiGroups: [twinshore.io]
  resources: [replicatedvolumes]
  verbs: [get, list, watch, patch]
- apiGroups: [twinshore.io]
  resources: [replicatedvolumes/status]
  verbs: [get, patch]
# Owner references that block deletion.
- apiGroups: [twinshore.io]
  resources: [replicatedvolumes/finalizers]
  verbs: [update]
# Reading: the Secrets that volumes name, which cannot be known here. Only metadata is watched; content is read by name.
# Writing: the Secrets of the volumes, whose names are made from theirs.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# An annotation tells the kubelet of a Secret that changed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# For each volume a Role for one Secret. The API server lets nobody grant what he may not do himself.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
