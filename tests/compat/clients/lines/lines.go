// Package lines is what the Go client programs share: records and answers as lines of JSON, bytes as hex, null as null.
//
// A program is called as `NAME VERB HOST:PORT WORDS...`; lines.py says what it prints.
package lines

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"
)

// NotOffered is returned where a client cannot do what it is asked for.
type NotOffered string

func (why NotOffered) Error() string { return string(why) }

// Refused is returned where the broker says no, with its code.
type Refused struct {
	Code    int16
	Message string
}

func (refused Refused) Error() string { return refused.Message }

// Header is one header of a record; a value that is nil is null.
type Header struct {
	Name  string
	Value []byte
}

// Record is what is sent, and what is read; a key or value that is nil is null.
type Record struct {
	Partition int32
	Offset    int64
	Timestamp int64
	Key       []byte
	Value     []byte
	Headers   []Header
}

type line struct {
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp int64        `json:"timestamp"`
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   [][2]*string `json:"headers"`
}

func packed(text *string) []byte {
	if text == nil {
		return nil
	}
	bytes, err := hex.DecodeString(*text)
	if err != nil {
		panic(err)
	}
	return append([]byte{}, bytes...)
}

func shown(bytes []byte) *string {
	if bytes == nil {
		return nil
	}
	text := hex.EncodeToString(bytes)
	return &text
}

// Records reads the records to send.
func Records() ([]Record, error) {
	var records []Record
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<26)
	for input.Scan() {
		var told line
		if err := json.Unmarshal(input.Bytes(), &told); err != nil {
			return nil, err
		}
		record := Record{
			Partition: told.Partition,
			Timestamp: told.Timestamp,
			Key:       packed(told.Key),
			Value:     packed(told.Value),
		}
		for _, header := range told.Headers {
			record.Headers = append(record.Headers, Header{*header[0], packed(header[1])})
		}
		records = append(records, record)
	}
	return records, input.Err()
}

// Answer is one line that is printed.
type Answer map[string]any

var output = bufio.NewWriter(os.Stdout)

// Say prints an answer.
func Say(answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(output, "%s\n", text)
}

// SayRecord prints a record that was read.
func SayRecord(record Record) {
	told := line{
		Partition: record.Partition,
		Offset:    record.Offset,
		Timestamp: record.Timestamp,
		Key:       shown(record.Key),
		Value:     shown(record.Value),
		Headers:   [][2]*string{},
	}
	for _, header := range record.Headers {
		told.Headers = append(told.Headers, [2]*string{&header.Name, shown(header.Value)})
	}
	Say(told)
}

// Number is a word of the command line that is a number.
func Number(word string) int64 {
	number, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		panic(err)
	}
	return number
}

// Settings is a word of the command line that is an object of JSON.
func Settings(word string) map[string]string {
	settings := map[string]string{}
	if err := json.Unmarshal([]byte(word), &settings); err != nil {
		panic(err)
	}
	return settings
}

// Verb is what a program can do, with the words behind it.
type Verb func(words []string) error

// Main does what the command line says. `module` is the client's, whose version is told.
func Main(module string, verbs map[string]Verb) {
	verbs["version"] = func([]string) error { return version(module) }
	// A program that makes no progress ends, before it is killed without a word.
	time.AfterFunc(90*time.Second, func() {
		fmt.Fprintln(os.Stderr, "no progress for 90 seconds")
		os.Exit(1)
	})
	err := error(NotOffered("the client has no such request"))
	if verb := verbs[os.Args[1]]; verb != nil {
		err = verb(os.Args[2:])
	}
	var refused Refused
	var notOffered NotOffered
	switch {
	case err == nil:
	case errors.As(err, &refused):
		Say(Answer{"error": Answer{"code": refused.Code, "message": refused.Message}})
	case errors.As(err, &notOffered):
		Say(Answer{"not_offered": string(notOffered)})
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	output.Flush()
}

func version(module string) error {
	built, _ := debug.ReadBuildInfo()
	for _, dependency := range built.Deps {
		if dependency.Path == module {
			Say(Answer{"version": dependency.Version[1:]})
			return nil
		}
	}
	return fmt.Errorf("%s is not in this program", module)
}
