//go:build !linux

package plugin

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the command into a process group of its own. Only Linux can also tie its life to the worker's; elsewhere the function
// notices the end of its standard input.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func terminate(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }

func killGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
