package migrate

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors"
	"github.com/millrace/millrace/internal/api"
	"github.com/millrace/millrace/internal/config"
	"github.com/millrace/millrace/internal/fault"
)

// Migration is a Kafka Connect cluster and this one.
type Migration struct {
	There, Here *api.Client
	// Set and Drop change configs on the way: keys with their new values, and keys to leave out.
	Set  map[string]string
	Drop []string
	// Patience is how long to try again where one of the two does not answer. 0: 30 s.
	Patience time.Duration
}

// What becomes of a key.
const (
	Same        = "same"
	Ignored     = "ignored"
	Unsupported = "not supported"
	Added       = "set"
	Dropped     = "dropped"
)

// Key is what becomes of one key of a config.
type Key struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
}

// Report is what is known of one connector before it moves.
type Report struct {
	Name  string `json:"name"`
	Class string `json:"class"`
	Type  string `json:"type"`
	State string `json:"state"`
	// Offsets is how many partitions have one.
	Offsets int `json:"offsets"`
	// Blockers are the reasons why it can't move; empty: it can.
	Blockers []string `json:"blockers"`
	// Notes are what differs all the same.
	Notes []string `json:"notes"`
	Keys  []Key    `json:"keys"`

	config map[string]string // as it would be here
	// begun is the state that an earlier Apply meant to bring it into here, which did not end; empty: there was none.
	begun string
}

// Look compares connectors there with what this cluster takes. No names: all.
func (m *Migration) Look(ctx context.Context, names []string) ([]*Report, error) {
	all, err := m.There.Expanded(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask Kafka Connect: %w", err)
	}
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(all))
	}
	otherKafka, err := m.otherKafka(ctx)
	if err != nil {
		return nil, err
	}
	var out []*Report
	for _, name := range names {
		e, ok := all[name]
		if !ok || e.Info == nil || e.Status == nil {
			return nil, fault.New(fault.NotFound, "%s has no connector %s that has a status", m.There.URL, name)
		}
		r, err := m.look(ctx, e)
		if err != nil {
			return nil, err
		}
		if otherKafka != "" {
			r.Blockers = append(r.Blockers, otherKafka)
		}
		out = append(out, r)
	}
	return out, nil
}

// otherKafka says that the two clusters do not share their brokers: topics and the offsets of sinks would not be the same.
func (m *Migration) otherKafka(ctx context.Context) (string, error) {
	var there, here api.ServerInfo
	if err := m.There.Do(ctx, http.MethodGet, "/", nil, &there); err != nil {
		return "", fmt.Errorf("ask Kafka Connect: %w", err)
	}
	if err := m.Here.Do(ctx, http.MethodGet, "/", nil, &here); err != nil {
		return "", err
	}
	if there.KafkaClusterID == here.KafkaClusterID {
		return "", nil
	}
	return fmt.Sprintf("Kafka Connect works on the Kafka cluster %s and this one on %s: start the nodes with the same --brokers", there.KafkaClusterID, here.KafkaClusterID), nil
}

func (m *Migration) look(ctx context.Context, e api.Expanded) (*Report, error) {
	given := e.Info.Config
	r := &Report{
		Name: e.Info.Name, Class: given[config.ConnectorClass], Type: e.Info.Type, State: e.Status.Connector.State,
		Blockers: []string{}, Notes: []string{}, config: m.changed(given),
	}
	if m.Set[config.ConnectorClass] != "" {
		r.Class = m.Set[config.ConnectorClass]
	}
	offsets, err := m.There.Offsets(ctx, r.Name)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		r.Blockers = append(r.Blockers, "this Kafka Connect does not tell offsets by REST: it needs 3.6 or newer")
	case err != nil:
		return nil, fmt.Errorf("offsets of %s on Kafka Connect: %w", r.Name, err)
	default:
		r.Offsets = len(offsets.Offsets)
		r.Notes = append(r.Notes, cutShort(offsets.Offsets)...)
	}
	if err := m.present(ctx, r); err != nil {
		return nil, err
	}
	plugin, known := connectors.Lookup(r.Class)
	if !known {
		r.Blockers = append(r.Blockers, fmt.Sprintf("the class %s is not known here; millrace connector plugins lists those that are", r.Class))
		return r, nil
	}
	infos, err := m.Here.Validate(ctx, r.Class, r.config)
	if err != nil {
		return nil, fmt.Errorf("validate %s: %w", r.Name, err)
	}
	r.keys(given, plugin, infos)
	r.converters(plugin)
	return r, nil
}

// present looks for a connector of that name here, which may be what an earlier move has left.
func (m *Migration) present(ctx context.Context, r *Report) error {
	is, err := m.Here.Get(ctx, r.Name)
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	status, err := m.Here.Status(ctx, r.Name)
	if err != nil {
		return err
	}
	switch direction, state := unfinished(is.Config); {
	case direction == toHere && status.Connector.State != "STOPPED":
		r.Blockers = append(r.Blockers, "an earlier --apply did not end, and it was started here since: hand it back with --back, or take "+config.Unfinished+" out of its config")
	case direction == toHere:
		r.begun = state
		r.Notes = append(r.Notes, "an earlier --apply did not end: --apply goes on with it, --back takes it back")
	case direction == toThere:
		r.Blockers = append(r.Blockers, "an earlier --back did not end: run --back again")
	case r.State == "STOPPED":
		r.Blockers = append(r.Blockers, "this cluster has a connector of that name already, and at Kafka Connect it is stopped: if it was moved and does not run, start it here with millrace connector resume")
	default:
		r.Blockers = append(r.Blockers, "this cluster has a connector of that name already: delete or rename one of the two")
	}
	return nil
}

// changed is the config as it would be here.
func (m *Migration) changed(given map[string]string) map[string]string {
	out := maps.Clone(given)
	for _, k := range m.Drop {
		delete(out, k)
	}
	maps.Copy(out, m.Set)
	return out
}

// keys judges each key by what validation says, and by what the config spec says of keys without effect.
func (r *Report) keys(given map[string]string, p *connectors.Plugin, infos *api.ConfigInfos) {
	wrong := map[string]string{}
	for _, i := range infos.Configs {
		if i.Value != nil && len(i.Value.Errors) > 0 {
			wrong[i.Value.Name] = strings.Join(i.Value.Errors, " ")
		}
	}
	names := map[string]bool{}
	for _, m := range []map[string]string{given, r.config, wrong} {
		for k := range m {
			names[k] = true
		}
	}
	spec := config.Full(p)
	for _, k := range slices.Sorted(maps.Keys(names)) {
		key := Key{Name: k, Result: Same}
		_, was := given[k]
		value, is := r.config[k]
		decl, _ := spec.Lookup(k)
		switch {
		case wrong[k] != "":
			key.Result, key.Reason = Unsupported, wrong[k]
			r.Blockers = append(r.Blockers, k+": "+wrong[k])
		case !is:
			key.Result = Dropped
		case !was || value != given[k]:
			key.Result = Added
		case strings.HasPrefix(decl.Doc, "Accepted "):
			_, why, _ := strings.Cut(decl.Doc, "Accepted without effect: ")
			if why == "" {
				_, why, _ = strings.Cut(decl.Doc, ". ")
			}
			key.Result, key.Reason = Ignored, strings.TrimSuffix(why, ".")
		}
		r.Keys = append(r.Keys, key)
	}
}

// converters notes what a config leaves to Kafka Connect's workers: their setting can't be asked for.
func (r *Report) converters(p *connectors.Plugin) {
	for _, k := range []string{config.KeyConverter, config.ValueConverter} {
		if r.config[k] == "" {
			r.Notes = append(r.Notes, fmt.Sprintf("%s is not in its config: Kafka Connect's workers have a default of their own, which REST does not tell. If theirs is not the one of %s here, add --set %s=…", k, p.Class, k))
		}
	}
}
