package convert

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/connectors/record"
)

// timeUnits are the ns per step of the types of time that are numbers.
var timeUnits = map[string]int64{
	record.LogicalTime: 1e6, "io.debezium.time.Time": 1e6, "io.debezium.time.MicroTime": 1e3, "io.debezium.time.NanoTime": 1,
	record.LogicalTimestamp: 1e6, "io.debezium.time.Timestamp": 1e6, "io.debezium.time.MicroTimestamp": 1e3, "io.debezium.time.NanoTimestamp": 1,
}

// timeDatum reads a value of a type of time; false: the name is of none.
func timeDatum(c *record.Column, name string, v any) (record.Datum, bool, error) {
	switch name {
	case record.LogicalDate, "io.debezium.time.Date":
		n, ok := v.(int64)
		if !ok {
			return record.Datum{}, true, fmt.Errorf("a %T is no %s", v, name)
		}
		return record.Text(time.Unix(n*86400, 0).UTC().AppendFormat(nil, "2006-01-02")), true, nil
	case "io.debezium.time.IsoDate", "io.debezium.time.IsoTime":
		s, ok := v.(string)
		if !ok {
			return record.Datum{}, true, fmt.Errorf("a %T is no %s", v, name)
		}
		return record.Text([]byte(strings.TrimSuffix(s, "Z"))), true, nil
	case "io.debezium.time.ZonedTimestamp", "io.debezium.time.IsoTimestamp":
		s, _ := v.(string)
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return record.Datum{}, true, fmt.Errorf("%v is no %s", v, name)
		}
		if c.Family == record.FamilyTimestamp {
			return record.Int(t.UnixMicro()), true, nil
		}
		return record.Text(t.UTC().AppendFormat(nil, "2006-01-02 15:04:05.000000")), true, nil
	}
	unit, ok := timeUnits[name]
	if !ok {
		return record.Datum{}, false, nil
	}
	n, ok := v.(int64)
	if !ok {
		return record.Datum{}, true, fmt.Errorf("a %T is no %s", v, name)
	}
	if c.Family == record.FamilyTime {
		return record.Text(appendClock(nil, n, unit, c.Scale)), true, nil
	}
	t := time.UnixMilli(n).UTC()
	switch unit {
	case 1e3:
		t = time.UnixMicro(n).UTC()
	case 1:
		t = time.Unix(0, n).UTC()
	}
	return record.Text(t.AppendFormat(nil, "2006-01-02 15:04:05.000000")), true, nil
}

// appendClock writes a time of unit ns per step as [-]hh:mm:ss.ffffff with scale fraction digits.
func appendClock(dst []byte, n, unit int64, scale int) []byte {
	abs := uint64(n)
	if n < 0 {
		dst = append(dst, '-')
		abs = -abs
	}
	perSecond := uint64(1e9 / unit)
	sec, us := abs/perSecond, abs%perSecond*uint64(unit)/1000
	hours := sec / 3600
	if hours < 10 {
		dst = append(dst, '0')
	}
	dst = strconv.AppendUint(dst, hours, 10)
	dst = append2(append(dst, ':'), int(sec/60%60))
	dst = append2(append(dst, ':'), int(sec%60))
	return appendFraction(dst, int(us), scale)
}
