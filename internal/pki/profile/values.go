package profile

// Source names a value of the register that a field may be filled from.
type Source string

// The sources of a field's value.
const (
	FromCommonName         Source = "commonName"
	FromDeviceSerial       Source = "deviceSerial"
	FromDeviceID           Source = "deviceId"
	FromProduct            Source = "product"
	FromOrganization       Source = "organization"
	FromOrganizationalUnit Source = "organizationalUnit"
	FromOwner              Source = "owner"
	FromSite               Source = "site"
	FromCountry            Source = "country"
	FromHardwareSerial     Source = "hardwareSerial"
	FromEmail              Source = "email"
	FromURI                Source = "uri"
	FromHosts              Source = "hosts"
	FromTPMManufacturer    Source = "tpmManufacturer"
	FromTPMModel           Source = "tpmModel"
	FromTPMVersion         Source = "tpmVersion"
	FromEKDigest           Source = "ekDigest"
)

// Sources returns all sources.
func Sources() []Source {
	return []Source{
		FromCommonName, FromDeviceSerial, FromDeviceID, FromProduct, FromOrganization, FromOrganizationalUnit,
		FromOwner, FromSite, FromCountry, FromHardwareSerial, FromEmail, FromURI, FromHosts,
		FromTPMManufacturer, FromTPMModel, FromTPMVersion, FromEKDigest,
	}
}

// Values is what the register knows about the subject of one certificate. Empty
// means unknown.
type Values struct {
	CommonName         string // of an authority, station, operator or server
	DeviceSerial       string
	DeviceID           string
	Product            string
	Organization       string
	OrganizationalUnit string
	Owner              string
	Site               string
	Country            string
	HardwareSerial     string   // of the chip or module
	HardwareType       string   // dotted OID; goes before the profile's own hardwareType
	Email              string   // of an operator
	URI                string   // of an application
	Hosts              []string // DNS names and IP addresses of a server

	// What a TPM was proven to be, as its EK certificate says.
	TPMManufacturer string // "id:494E5443"
	TPMModel        string
	TPMVersion      string // "id:00010002"
	EKDigest        string // SHA-256 of the EK certificate, hexadecimal
}

// Get returns the value that a source names; FromHosts has none, since it names
// a list.
func (v *Values) Get(s Source) string {
	if p := v.slot(s); p != nil {
		return *p
	}
	return ""
}

// Set stores the value that a source names; FromHosts is left alone.
func (v *Values) Set(s Source, text string) {
	if p := v.slot(s); p != nil {
		*p = text
	}
}

func (v *Values) slot(s Source) *string {
	switch s {
	case FromCommonName:
		return &v.CommonName
	case FromDeviceSerial:
		return &v.DeviceSerial
	case FromDeviceID:
		return &v.DeviceID
	case FromProduct:
		return &v.Product
	case FromOrganization:
		return &v.Organization
	case FromOrganizationalUnit:
		return &v.OrganizationalUnit
	case FromOwner:
		return &v.Owner
	case FromSite:
		return &v.Site
	case FromCountry:
		return &v.Country
	case FromHardwareSerial:
		return &v.HardwareSerial
	case FromEmail:
		return &v.Email
	case FromURI:
		return &v.URI
	case FromTPMManufacturer:
		return &v.TPMManufacturer
	case FromTPMModel:
		return &v.TPMModel
	case FromTPMVersion:
		return &v.TPMVersion
	case FromEKDigest:
		return &v.EKDigest
	}
	return nil
}
