// Package transform declares the connector class that runs a user's function between topics. Its loop is the worker's own
// (worker/pipe); here is what users configure.
package transform

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/connectors/configdef"
)

// The keys.
const (
	Output       = "transform.output.topic"
	Routes       = "transform.routes"
	Command      = "function.command"
	Address      = "function.address"
	Dir          = "function.dir"
	EnvPrefix    = "function.env."
	ConfigPrefix = "function.config."
	StartTimeout = "function.start.timeout.ms"
	BatchTimeout = "function.batch.timeout.ms"
	BatchMax     = "function.batch.max.records"
	Crashes      = "function.max.crashes"
	InstancesMin = "function.instances.min"
	InstancesMax = "function.instances.max"
	IdleTimeout  = "function.idle.timeout.ms"
	DrainTarget  = "function.drain.target.ms"
	MemoryMax    = "function.memory.max.mb"
)

// Spec is the class's own keys.
func Spec() *configdef.Spec {
	return configdef.New(
		configdef.Key{Name: Output, Type: configdef.String, Required: true, Importance: configdef.High, Group: "Transform", Example: "orders.clean", Doc: "Topic for the records that the function keeps or makes."},
		configdef.Key{Name: Routes, Type: configdef.List, Default: "", Importance: configdef.Medium, Group: "Transform", Doc: "Further topics that the function may route records to. Any other fails the task."},
		configdef.Key{Name: Command, Type: configdef.String, Default: "", Importance: configdef.High, Group: "Function", Width: configdef.WidthLong, Example: "python3 /srv/functions/mask.py", Doc: "Command line of the function; the worker launches and watches it. Words are split at blanks, quotes hold words together; no shell is involved."},
		configdef.Key{Name: Address, Type: configdef.String, Default: "", Importance: configdef.Medium, Group: "Function", Example: "functions.internal:9000", Doc: "Address of a function that runs already, host:port or unix:///path; instead of a command."},
		configdef.Key{Name: Dir, Type: configdef.String, Default: "", Importance: configdef.Low, Group: "Function", Doc: "Working directory of the command. Empty: a directory of its own that is removed afterwards."},
		configdef.Key{Name: EnvPrefix, Type: configdef.String, Prefix: true, Importance: configdef.Low, Group: "Function", Doc: "function.env.NAME sets the environment variable NAME for the command. Besides these it gets PATH, HOME, LANG and TZ of the node, and nothing else."},
		configdef.Key{Name: ConfigPrefix, Type: configdef.String, Prefix: true, Importance: configdef.Medium, Group: "Function", Doc: "function.config.NAME is the function's own setting NAME."},
		configdef.Key{Name: StartTimeout, Type: configdef.Long, Default: "15000", HasMin: true, Min: 100, Importance: configdef.Low, Group: "Function", Doc: "How long the command may take until it answers, in milliseconds."},
		configdef.Key{Name: BatchTimeout, Type: configdef.Long, Default: "30000", HasMin: true, Min: 10, Importance: configdef.Medium, Group: "Function", Doc: "How long a batch may take, in milliseconds. A function that takes longer counts as hung: it is killed and the batch tried again."},
		configdef.Key{Name: BatchMax, Type: configdef.Int, Default: "1000", HasMin: true, Min: 1, Importance: configdef.Low, Group: "Function", Doc: "Largest number of records in one call of the function."},
		configdef.Key{Name: Crashes, Type: configdef.Int, Default: "3", HasMin: true, Min: 1, Importance: configdef.Low, Group: "Function", Doc: "How often a batch may crash or hang the function before it is split, down to the one record that does it. That record then counts as failed, and errors.tolerance decides."},
		configdef.Key{Name: InstancesMin, Type: configdef.Int, Default: "1", HasMin: true, Min: 0, Importance: configdef.Medium, Group: "Scaling", Doc: "Least number of instances of the function that each task keeps. 0: none while there is nothing to do; the first batch then starts one, and only then it shows whether it starts."},
		configdef.Key{Name: InstancesMax, Type: configdef.Int, Default: "1", HasMin: true, Min: 1, HasMax: true, Max: 64, Importance: configdef.Medium, Group: "Scaling", Doc: "Largest number of instances of the function in each task. Work is spread over them by the hash of the key, so each key keeps its order, and there may be more of them than partitions."},
		configdef.Key{Name: DrainTarget, Type: configdef.Long, Default: "250", HasMin: true, Min: 1, Importance: configdef.Low, Group: "Scaling", Doc: "How long it may take, as predicted from the records that wait and the time that each takes, until all input is done, in milliseconds. When it would take longer, one more instance works."},
		configdef.Key{Name: IdleTimeout, Type: configdef.Long, Default: "60000", HasMin: true, Min: 1, Importance: configdef.Low, Group: "Scaling", Doc: "After how long without work an instance beyond function.instances.min ends, in milliseconds."},
		configdef.Key{Name: MemoryMax, Type: configdef.Int, Default: "0", HasMin: true, Min: 0, Importance: configdef.Medium, Group: "Limits", Doc: "How much memory an instance of the command may hold, in MiB, with the processes that it starts: resident memory, looked at 20 times a second, on Linux. One that holds more is killed, which counts as a crash with that reason. 0: as much as there is."},
	).Cross(oneOf).Cross(leastMost)
}

func oneOf(v configdef.Values) []configdef.Problem {
	command, address := v.String(Command), v.String(Address)
	var msg string
	switch {
	case command == "" && address == "":
		msg = "Must configure one of function.command or function.address"
	case command != "" && address != "":
		msg = "function.command and function.address are mutually exclusive options, but both are set."
	default:
		if _, err := Split(command); err != nil {
			return []configdef.Problem{{Key: Command, Value: command, Message: fmt.Sprintf("Invalid value %s for configuration %s: %v", command, Command, err)}}
		}
		return nil
	}
	return []configdef.Problem{{Key: Command, Value: command, Message: msg}, {Key: Address, Value: address, Message: msg}}
}

func leastMost(v configdef.Values) []configdef.Problem {
	least, most := v.Int(InstancesMin), v.Int(InstancesMax)
	if least <= most {
		return nil
	}
	return []configdef.Problem{{Key: InstancesMax, Value: strconv.FormatInt(most, 10), Message: fmt.Sprintf("Invalid value %d for configuration %s: it is less than %s, which is %d; raise the one or lower the other", most, InstancesMax, InstancesMin, least)}}
}

func init() {
	connectors.Register(connectors.Plugin{
		Class: "transform", Kind: connectors.KindTransform, Version: "1.0.0", Spec: Spec(),
		Doc:      "Runs a function of yours, in any language, between topics: keep, change, drop, split or route each record, exactly once.",
		Validate: validate,
	})
}

// validate looks whether the command is there. It is asked on the leader, whose files may differ from a worker's, so only a name that can't
// be found here by any path is reported; a path is checked where the task runs.
func validate(_ context.Context, config map[string]string) []configdef.Problem {
	args, err := Split(config[Command])
	if err != nil || len(args) == 0 || filepath.IsAbs(args[0]) {
		return nil
	}
	if _, err := exec.LookPath(args[0]); err != nil && filepath.Base(args[0]) == args[0] {
		return []configdef.Problem{{Key: Command, Value: config[Command], Message: fmt.Sprintf("Invalid value %s for configuration %s: there is no program %q on this node's PATH; give its whole path", config[Command], Command, args[0])}}
	}
	return nil
}

// Split splits a command line at blanks. Single and double quotes hold words together; a backslash outside single quotes takes the next
// character as it is.
func Split(line string) ([]string, error) {
	var out []string
	var word []rune
	in := rune(0)
	have, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word, escaped = append(word, r), false
		case r == '\\' && in != '\'':
			escaped, have = true, true
		case in != 0 && r == in:
			in = 0
		case in == 0 && (r == '\'' || r == '"'):
			in, have = r, true
		case in == 0 && (r == ' ' || r == '\t' || r == '\n'):
			if have {
				out = append(out, string(word))
			}
			word, have = nil, false
		default:
			word, have = append(word, r), true
		}
	}
	if in != 0 || escaped {
		return nil, fmt.Errorf("a quote or backslash is left open")
	}
	if have {
		out = append(out, string(word))
	}
	return out, nil
}
