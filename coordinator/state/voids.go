package state

import (
	"cmp"
	"maps"
	"slices"

	commandv1 "github.com/millrace/millrace/proto/command/v1"
)

// Void says that what a sink keeps of its own offset in a partition counts no more if it was stored under an epoch below Below: the
// group's offset was altered since. An empty Topic stands for all partitions without a Void of their own.
//
// Voids outlive their connector: offsets that were reset before it was deleted stay reset when one of the same name is created.
type Void struct {
	Topic     string
	Partition int32
	Below     uint64
}

// Voids returns a connector's, those of all partitions first. There are only ever as many as partitions were altered.
func (s *State) Voids(connector string) []Void { return s.voided[connector] }

func (s *State) voidOffsets(index uint64, p *commandv1.VoidOffsets) {
	if len(p.Partitions) == 0 {
		s.voided[p.Connector] = []Void{{Below: index}}
		return
	}
	list := slices.Clone(s.voided[p.Connector]) // what was handed out stays as it is
	for _, tp := range p.Partitions {
		v := Void{tp.Topic, tp.Partition, index}
		at, found := slices.BinarySearchFunc(list, v, func(a, b Void) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
		if found {
			list[at] = v
		} else {
			list = slices.Insert(list, at, v)
		}
	}
	s.voided[p.Connector] = list
}

func (s *State) voidedImage() (out []*commandv1.VoidedImage) {
	for _, name := range slices.Sorted(maps.Keys(s.voided)) {
		for _, v := range s.voided[name] {
			out = append(out, &commandv1.VoidedImage{
				Connector: name, Partition: &commandv1.TopicPartition{Topic: v.Topic, Partition: v.Partition}, Index: v.Below,
			})
		}
	}
	return out
}
