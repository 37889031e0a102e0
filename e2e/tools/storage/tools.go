//go:build tools

// Package tools names the programs that are built with this module's versions, so that go.sum covers them.
package tools

import (
	_ "k8s.io/kubernetes/test/images/agnhost"
)
