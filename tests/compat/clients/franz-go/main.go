// Speaks to a broker with franz-go: see ../lines.py.
package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"millstream/clients/lines"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var always = context.Background()

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

// told makes the broker's own errors what the driver knows.
func told(err error) error {
	var broker *kerr.Error
	if errors.As(err, &broker) {
		return lines.Refused{Code: broker.Code, Message: err.Error()}
	}
	return err
}

func client(broker string, options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(broker))...)
}

func admin(broker string) (*kadm.Client, error) {
	client, err := client(broker)
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(client), nil
}

func produce(words []string) error {
	records, err := lines.Records()
	if err != nil {
		return err
	}
	options := []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[words[2]]),
		kgo.ProducerLinger(200 * time.Millisecond),
		kgo.ProducerBatchMaxBytes(1_000_000),
		kgo.UnknownTopicRetries(0),
	}
	if len(words) < 4 || words[3] != "true" {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	client, err := client(words[0], options...)
	if err != nil {
		return err
	}
	var sent []*kgo.Record
	for _, record := range records {
		one := &kgo.Record{
			Topic:     words[1],
			Partition: record.Partition,
			Timestamp: time.UnixMilli(record.Timestamp),
			Key:       record.Key,
			Value:     record.Value,
		}
		for _, header := range record.Headers {
			one.Headers = append(one.Headers, kgo.RecordHeader{Key: header.Name, Value: header.Value})
		}
		sent = append(sent, one)
	}
	for _, placed := range client.ProduceSync(always, sent...) {
		if placed.Err != nil {
			return told(placed.Err)
		}
	}
	for _, record := range sent {
		lines.Say(lines.Answer{"partition": record.Partition, "offset": record.Offset})
	}
	return nil
}

func consume(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	ends, err := admin.ListEndOffsets(always, words[1])
	if err != nil {
		return told(err)
	}
	left, places := map[int32]int64{}, map[int32]kgo.Offset{}
	starts, err := admin.ListStartOffsets(always, words[1])
	if err != nil {
		return told(err)
	}
	for _, end := range ends.Offsets()[words[1]] {
		if start, _ := starts.Lookup(words[1], end.Partition); start.Offset < end.At {
			left[end.Partition] = end.At
			places[end.Partition] = kgo.NewOffset().At(start.Offset)
		}
	}
	reader, err := client(words[0], kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{words[1]: places}))
	if err != nil {
		return err
	}
	for len(left) > 0 {
		fetches := reader.PollFetches(always)
		if err := fetches.Err(); err != nil {
			return told(err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			one := lines.Record{
				Partition: record.Partition,
				Offset:    record.Offset,
				Timestamp: record.Timestamp.UnixMilli(),
				Key:       record.Key,
				Value:     record.Value,
			}
			for _, header := range record.Headers {
				one.Headers = append(one.Headers, lines.Header{Name: header.Key, Value: header.Value})
			}
			lines.SayRecord(one)
			if record.Offset+1 >= left[record.Partition] {
				delete(left, record.Partition)
			}
		})
	}
	return nil
}

func create(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	configs := map[string]*string{}
	for name, value := range lines.Settings(words[3]) {
		configs[name] = &value
	}
	_, err = admin.CreateTopic(always, int32(lines.Number(words[2])), 1, configs, words[1])
	if err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"done": true})
	return nil
}

func list(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	topics, err := admin.ListTopics(always)
	if err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"topics": topics.Names()})
	return nil
}

func partitions(admin *kadm.Client, topic string) ([]int32, error) {
	topics, err := admin.ListTopics(always, topic)
	if err == nil {
		err = topics[topic].Err
	}
	if err != nil {
		return nil, told(err)
	}
	return topics[topic].Partitions.Numbers(), nil
}

func describe(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	numbers, err := partitions(admin, words[1])
	if err != nil {
		return err
	}
	slices.Sort(numbers)
	lines.Say(lines.Answer{"partitions": numbers})
	return nil
}

func configs(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	described, err := admin.DescribeTopicConfigs(always, words[1])
	if err == nil {
		err = described[0].Err
	}
	if err != nil {
		return told(err)
	}
	values := map[string]*string{}
	for _, config := range described[0].Configs {
		values[config.Key] = config.Value
	}
	lines.Say(lines.Answer{"configs": values})
	return nil
}

func alter(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	change := kadm.AlterConfig{Op: kadm.SetConfig, Name: words[2], Value: &words[3]}
	altered, err := admin.AlterTopicConfigs(always, []kadm.AlterConfig{change}, words[1])
	if err == nil {
		err = altered[0].Err
	}
	if err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"done": true})
	return nil
}

func remove(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	if _, err := admin.DeleteTopic(always, words[1]); err != nil {
		return told(err)
	}
	lines.Say(lines.Answer{"done": true})
	return nil
}

// offsets tells -1 where there is no such record.
func offsets(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	listed, err := admin.ListOffsetsAfterMilli(always, lines.Number(words[2]), words[1])
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return told(err)
	}
	told := map[int32]int64{}
	listed.Each(func(one kadm.ListedOffset) {
		told[one.Partition] = one.Offset
		// The client asks again for the end where there is no such record, and gives no time then.
		if one.Timestamp == -1 {
			told[one.Partition] = -1
		}
	})
	lines.Say(lines.Answer{"offsets": told})
	return nil
}

func deleteRecords(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	partition := int32(lines.Number(words[2]))
	before := kadm.Offsets{}
	before.AddOffset(words[1], partition, lines.Number(words[3]), -1)
	deleted, err := admin.DeleteRecords(always, before)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		return told(err)
	}
	one, _ := deleted.Lookup(words[1], partition)
	lines.Say(lines.Answer{"low_watermark": one.LowWatermark})
	return nil
}

func logDirs(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	described, err := admin.DescribeAllLogDirs(always, nil)
	if err != nil {
		return told(err)
	}
	var bytes int64
	for _, dirs := range described {
		if err := dirs.Error(); err != nil {
			return told(err)
		}
		dirs.EachPartition(func(partition kadm.DescribedLogDirPartition) {
			if partition.Topic == words[1] {
				bytes += partition.Size
			}
		})
	}
	lines.Say(lines.Answer{"bytes": bytes})
	return nil
}

func unknown(words []string) error {
	admin, err := admin(words[0])
	if err != nil {
		return err
	}
	_, err = partitions(admin, words[1])
	return err
}

func main() {
	lines.Main("github.com/twmb/franz-go", map[string]lines.Verb{
		"produce":        produce,
		"consume":        consume,
		"create":         create,
		"list":           list,
		"describe":       describe,
		"configs":        configs,
		"alter":          alter,
		"delete":         remove,
		"offsets":        offsets,
		"delete-records": deleteRecords,
		"log-dirs":       logDirs,
		"unknown":        unknown,
	})
}
