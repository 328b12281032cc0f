package plugin

import (
	"os"
	"strconv"
	"strings"
)

// resident is how many bytes a process and its descendants hold in memory; 0 when it is gone.
func resident(pid int) int64 {
	dir := "/proc/" + strconv.Itoa(pid)
	text, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return 0
	}
	var bytes int64
	if f := strings.Fields(string(text)); len(f) > 1 {
		pages, _ := strconv.ParseInt(f[1], 10, 64)
		bytes = pages * int64(os.Getpagesize())
	}
	tasks, _ := os.ReadDir(dir + "/task") // a child belongs to the thread that started it
	for _, t := range tasks {
		children, _ := os.ReadFile(dir + "/task/" + t.Name() + "/children")
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				bytes += resident(n)
			}
		}
	}
	return bytes
}
