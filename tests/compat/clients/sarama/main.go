// Speaks to a broker with sarama: see ../lines.py.
package main

import (
	"errors"
	"io"
	"log"
	"slices"
	"strconv"
	"time"

	"millstream/clients/lines"

	"github.com/IBM/sarama"
)

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

// told makes the broker's own errors what the driver knows.
func told(err error) error {
	var code sarama.KError
	var topic *sarama.TopicError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &topic):
		return lines.Refused{Code: int16(topic.Err), Message: err.Error()}
	case errors.As(err, &code):
		return lines.Refused{Code: int16(code), Message: err.Error()}
	}
	return err
}

func settings() *sarama.Config {
	config := sarama.NewConfig()
	// It does not ask which versions there are unless told what to expect.
	config.Version = sarama.MaxVersion
	config.Metadata.AllowAutoTopicCreation = false
	config.Producer.Return.Successes = true
	config.Producer.Return.Errors = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.MaxMessageBytes = 2_000_000
	return config
}

func produce(words []string) error {
	records, err := lines.Records()
	if err != nil {
		return err
	}
	config := settings()
	config.Producer.Compression = codecs[words[2]]
	config.Producer.Flush.Frequency = 200 * time.Millisecond
	if len(words) > 3 && words[3] == "true" {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
	}
	producer, err := sarama.NewSyncProducer([]string{words[0]}, config)
	if err != nil {
		return told(err)
	}
	var sent []*sarama.ProducerMessage
	for _, record := range records {
		one := &sarama.ProducerMessage{
			Topic:     words[1],
			Partition: record.Partition,
			Timestamp: time.UnixMilli(record.Timestamp),
		}
		// An encoder that is nil is null; one of no bytes is empty.
		if record.Key != nil {
			one.Key = sarama.ByteEncoder(record.Key)
		}
		if record.Value != nil {
			one.Value = sarama.ByteEncoder(record.Value)
		}
		for _, header := range record.Headers {
			one.Headers = append(one.Headers, sarama.RecordHeader{Key: []byte(header.Name), Value: header.Value})
		}
		sent = append(sent, one)
	}
	if err := producer.SendMessages(sent); err != nil {
		var failed sarama.ProducerErrors
		if errors.As(err, &failed) {
			err = failed[0].Err
		}
		return told(err)
	}
	for _, one := range sent {
		lines.Say(lines.Answer{"partition": one.Partition, "offset": one.Offset})
	}
	return nil
}

func consume(words []string) error {
	client, err := sarama.NewClient([]string{words[0]}, settings())
	if err != nil {
		return told(err)
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return told(err)
	}
	numbers, err := client.Partitions(words[1])
	if err != nil {
		return told(err)
	}
	for _, number := range numbers {
		start, err := client.GetOffset(words[1], number, sarama.OffsetOldest)
		if err != nil {
			return told(err)
		}
		end, err := client.GetOffset(words[1], number, sarama.OffsetNewest)
		if err != nil {
			return told(err)
		}
		if start == end {
			continue
		}
		reader, err := consumer.ConsumePartition(words[1], number, start)
		if err != nil {
			return told(err)
		}
		for record := range reader.Messages() {
			one := lines.Record{
				Partition: record.Partition,
				Offset:    record.Offset,
				Timestamp: record.Timestamp.UnixMilli(),
				Key:       record.Key,
				Value:     record.Value,
			}
			for _, header := range record.Headers {
				one.Headers = append(one.Headers, lines.Header{Name: string(header.Key), Value: header.Value})
			}
			lines.SayRecord(one)
			if record.Offset+1 >= end {
				break
			}
		}
	}
	return nil
}

// asking is a verb of the admin client.
func asking(ask func(admin sarama.ClusterAdmin, words []string) (lines.Answer, error)) lines.Verb {
	return func(words []string) error {
		admin, err := sarama.NewClusterAdmin([]string{words[0]}, settings())
		if err != nil {
			return told(err)
		}
		answer, err := ask(admin, words)
		if err != nil {
			return told(err)
		}
		lines.Say(answer)
		return nil
	}
}

func create(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	configs := map[string]*string{}
	for name, value := range lines.Settings(words[3]) {
		configs[name] = &value
	}
	detail := sarama.TopicDetail{
		NumPartitions:     int32(lines.Number(words[2])),
		ReplicationFactor: 1,
		ConfigEntries:     configs,
	}
	return lines.Answer{"done": true}, admin.CreateTopic(words[1], &detail, false)
}

func list(admin sarama.ClusterAdmin, _ []string) (lines.Answer, error) {
	topics, err := admin.ListTopics()
	names := []string{}
	for name := range topics {
		names = append(names, name)
	}
	slices.Sort(names)
	return lines.Answer{"topics": names}, err
}

func described(admin sarama.ClusterAdmin, topic string) ([]int32, error) {
	topics, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return nil, err
	}
	if topics[0].Err != sarama.ErrNoError {
		return nil, topics[0].Err
	}
	numbers := []int32{}
	for _, partition := range topics[0].Partitions {
		numbers = append(numbers, partition.ID)
	}
	slices.Sort(numbers)
	return numbers, nil
}

func describe(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	numbers, err := described(admin, words[1])
	return lines.Answer{"partitions": numbers}, err
}

func configs(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: words[1]})
	values := map[string]string{}
	for _, entry := range entries {
		values[entry.Name] = entry.Value
	}
	return lines.Answer{"configs": values}, err
}

func alter(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	change := map[string]sarama.IncrementalAlterConfigsEntry{
		words[2]: {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &words[3]},
	}
	return lines.Answer{"done": true}, admin.IncrementalAlterConfig(sarama.TopicResource, words[1], change, false)
}

func remove(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	return lines.Answer{"done": true}, admin.DeleteTopic(words[1])
}

func offsets(words []string) error {
	client, err := sarama.NewClient([]string{words[0]}, settings())
	if err != nil {
		return told(err)
	}
	numbers, err := client.Partitions(words[1])
	if err != nil {
		return told(err)
	}
	found := map[string]int64{}
	for _, number := range numbers {
		offset, err := client.GetOffset(words[1], number, lines.Number(words[2]))
		if err != nil {
			return told(err)
		}
		found[strconv.Itoa(int(number))] = offset
	}
	lines.Say(lines.Answer{"offsets": found})
	return nil
}

func deleteRecords(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	before := map[int32]int64{int32(lines.Number(words[2])): lines.Number(words[3])}
	return lines.Answer{"done": true}, admin.DeleteRecords(words[1], before)
}

func logDirs(admin sarama.ClusterAdmin, words []string) (lines.Answer, error) {
	brokers, _, err := admin.DescribeCluster()
	if err != nil {
		return nil, err
	}
	ids := []int32{}
	for _, broker := range brokers {
		ids = append(ids, broker.ID())
	}
	described, err := admin.DescribeLogDirs(ids)
	var bytes int64
	for _, dirs := range described {
		for _, dir := range dirs {
			for _, topic := range dir.Topics {
				for _, partition := range topic.Partitions {
					if topic.Topic == words[1] {
						bytes += partition.Size
					}
				}
			}
		}
	}
	return lines.Answer{"bytes": bytes}, err
}

func main() {
	sarama.Logger = log.New(io.Discard, "", 0)
	lines.Main("github.com/IBM/sarama", map[string]lines.Verb{
		"produce":        produce,
		"consume":        consume,
		"create":         asking(create),
		"list":           asking(list),
		"describe":       asking(describe),
		"configs":        asking(configs),
		"alter":          asking(alter),
		"delete":         asking(remove),
		"offsets":        offsets,
		"delete-records": asking(deleteRecords),
		"log-dirs":       asking(logDirs),
		"unknown":        asking(describe),
	})
}
